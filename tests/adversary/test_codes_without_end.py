"""Item codes are computed again by whoever verifies: an item of 24 bytes takes milliseconds with large codebooks."""

from types import SimpleNamespace

import pytest

from experiments.verification import effort, examine_run, publications, standardisations
from tests.released import release_configuration

ITEM_CODES = publications._codes
LARGEST = {"global_codes": 65536, "local_codes": 65536, "latent_dim": 2, "hidden_dim": 1}
USUAL = {"global_codes": 64, "local_codes": 64, "latent_dim": 16, "hidden_dim": 64}


def too_many(quantizer, *, items, models):
    config = release_configuration()
    config = config.model_copy(update={"quantizer": config.quantizer.model_copy(update=quantizer)})
    return effort.too_many_codes(SimpleNamespace(config=config, plans=dict.fromkeys(range(models))), items)


@pytest.mark.parametrize(
    ("items", "models"),
    [
        (600_000, 1),  # 15 MB, half an hour
        (1000, 200),  # codebooks of a megabyte each, and seconds of what is computed beside them
    ],
)
def test_what_takes_a_reader_hours_is_said(items, models):
    assert too_many(LARGEST, items=items, models=models)


def test_what_runs_have_is_computed():
    assert not too_many(USUAL, items=1_000_000, models=20)
    assert not too_many(USUAL, items=100_000, models=140)
    assert not too_many(USUAL | {"global_codes": 1024, "local_codes": 1024}, items=100_000, models=20)


def test_codes_that_are_not_computed_are_named(released_copy, monkeypatch):
    asked, drawn = [], []

    def codes(config, state, factors):
        asked.append(len(factors))
        return ITEM_CODES(config, state, factors)

    monkeypatch.setattr(publications, "_codes", codes)
    monkeypatch.setattr(standardisations, "_constants", lambda *constants: drawn.append(constants) or {})
    assert examine_run(released_copy).unchecked == ()
    assert (len(asked), len(drawn)) == (3, 3)  # as it was, whatever they took
    monkeypatch.setattr(effort, "MOST_CODE_WORK", 1)
    examined = examine_run(released_copy)
    assert examined.findings == []
    assert sum("item codes: not computed again" in text for text in examined.unchecked) == 3
    assert sum("standardisation" in text for text in examined.unchecked) == 3
    assert (len(asked), len(drawn)) == (3, 3)
