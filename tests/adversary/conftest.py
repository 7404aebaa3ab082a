import pytest


@pytest.fixture(autouse=True, scope="session")
def recalls(recalled):
    """Its tests verify the same runs again and again."""
