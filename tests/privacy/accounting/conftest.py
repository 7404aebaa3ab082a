import pytest

from privacy.accounting.accountants import FINE, pld_epsilon


@pytest.fixture(autouse=True, scope="package")
def fine_intervals():
    """Of the losses that are composed, as the product states its ε; other tests have coarse ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pld_epsilon.__kwdefaults__, "interval", FINE)
        yield
