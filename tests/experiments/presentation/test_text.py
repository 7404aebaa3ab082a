import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.presentation.text import catalogue_lines, worst
from privacy.accounting.text import delta_text, epsilon_text


@given(st.floats(1e-12, 1e4))
def test_epsilon_is_never_shown_smaller_than_it_is(epsilon):
    assert float(epsilon_text(epsilon)) >= epsilon - 1e-12
    assert float(epsilon_text(epsilon)) <= epsilon + 1e-3 + 1e-9


@given(st.floats(1e-30, 0.999))
def test_delta_is_never_shown_smaller_than_it_is(delta):
    shown = float(delta_text(delta))
    assert shown >= delta * (1 - 1e-8)
    assert shown <= delta * 1.1001


def test_what_has_no_bound_has_no_number():
    assert epsilon_text(None) == epsilon_text(math.inf) == "∞"
    assert worst([1.0, None, 3.0]) is None
    assert worst([1.0, 3.0]) == 3.0
    assert worst([]) is None


@pytest.mark.parametrize(("delta", "text"), [(0.0, "0"), (1e-5, "1.0e-05"), (1.01e-5, "1.1e-05"), (9.99e-5, "1.0e-04")])
def test_delta_has_two_digits(delta, text):
    assert delta_text(delta) == text


def test_what_has_to_be_believed_of_catalogues_comes_first_and_names_its_markets():
    lines = catalogue_lines({"ca": "file", "de": "declared", "fr": "declared", "jp": "discovered"})
    assert len(lines) == 3
    assert lines[0].startswith("Declared, not shown: that the items found in users' rows are public")
    assert lines[0].endswith(": de, fr.")
    assert lines[1].endswith(": ca.")
