"""Rows as numbers of a publication that no noise reaches, and that follow from what is public: nobody compared them."""

import numpy as np
import pytest

from experiments.verification import examine_run, publications
from fedmm_secure.ctr.models.private import standardisation
from fedmm_secure.ctr.pseudo_examples import own_seed, pseudo_examples
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.guarantee import publications as forms
from fedmm_secure.guarantee.expected_arrays import on_grid
from fedmm_secure.quantization.build import model_of
from fedmm_secure.storage.encoding import nested, read_arrays, tensors_bytes
from privacy.mechanisms.dp_svd import fix_signs, subspace_edge
from privacy.mechanisms.grid import Grid
from tests.forgery import Forgery
from tests.manipulations import ROWS

MODEL = "ctr/0/0000-publication-m0.bin"


def arrays_of(run, file=MODEL):
    found = unpickle_tensors(run.read(file), "here")
    flat = {f"network.{name}": value for name, value in found.pop("network").items()} | found
    return {name: value.numpy().copy() for name, value in flat.items()}


def publish(run, arrays):
    """The owner's, in transcript and models alike, signed again."""
    data = tensors_bytes(nested(arrays, "network"))
    run.replace(MODEL, data)
    (run.directory / "models" / "m0" / "ctr-0.pt").write_bytes(data)
    run.finish(owner=True)


def as_numbers(count):
    """Six bytes of rows in each: finite, of the size of such constants."""
    parts = np.frombuffer(ROWS[: 6 * count], np.uint8).reshape(count, 6).astype(np.uint64)
    return 1.0 + (parts @ (256 ** np.arange(6, dtype=np.uint64))).astype(np.float64) * 2.0**-48


def read_off(values):
    words = np.rint((values - 1.0) * 2.0**48).astype(np.int64)
    return b"".join(int(word).to_bytes(6, "little") for word in words)


def findings(run):
    return {name: [one.what for one in found] for name, found in examine_run(run).checks.items() if found}


@pytest.fixture
def rows_in_constants(released_copy):
    run = Forgery(released_copy)
    arrays = arrays_of(run)
    for name in ("centre", "spread"):
        arrays[name] = as_numbers(len(arrays[name]))
    publish(run, arrays)
    held = b"".join(read_off(arrays_of(Forgery(released_copy))[name]) for name in ("centre", "spread"))
    assert held == 2 * ROWS[: len(held) // 2]
    assert len(held) > 200  # bytes, in each of all models
    return released_copy


def test_rows_in_the_standardisation_of_a_model(rows_in_constants):
    (what,) = findings(rows_in_constants)["publications"]
    assert what.endswith("not what its releases make of pseudo-users")


def test_they_verified(rows_in_constants, monkeypatch):
    monkeypatch.setattr(publications, "standardisation_findings", lambda *_: [])
    assert findings(rows_in_constants) == {}


def test_on_a_machine_that_is_said_to_be_another_they_may_not_be_others_either(rows_in_constants):
    run = Forgery(rows_in_constants)
    run.json("environment.json", lambda said: said["machine"].update(vectors="another"))
    run.finish(owner=True)
    assert "publications" in findings(rows_in_constants)


def test_a_last_digit_there_is_said_to_be_unchecked(released_copy):
    run = Forgery(released_copy)
    run.json("environment.json", lambda said: said["machine"].update(vectors="another"))
    arrays = arrays_of(run)
    arrays["centre"] = arrays["centre"] + 1e-9
    publish(run, arrays)
    examined = examine_run(released_copy)
    assert examined.findings == []
    assert ["standardisation" in text for text in examined.unchecked] == [True]


def test_more_pseudo_users_than_a_reader_draws_are_said(released_copy, monkeypatch):
    """A configuration asks for a million, and costs a reader minutes and gigabytes for each model."""
    from experiments.verification import standardisations

    monkeypatch.setattr(standardisations, "MOST_PAIRS", 10)
    assert sum("too many pseudo-users" in text for text in examine_run(released_copy).unchecked) == 3


def test_without_them_a_few_are_drawn_all_the_same(released_run):
    """The standardisation of a run that trains on none is of those."""
    run, plan = Forgery(released_run), examine_run(released_run).plans["m0"]
    config = plan.config
    counts, kept = (read_arrays(run.read(f"{stage}/0000-publication-m0.bin")) for stage in ("counts", "embedding"))
    state = {
        name: values.numpy()
        for name, values in unpickle_tensors(run.read("quantizer-model/0/0000-publication-m0.bin"), "here").items()
    }
    embedding, quantizer = released_embedding(config, counts, kept), model_of(config, state)
    few = [
        standardisation(pseudo_examples(embedding, quantizer, config.data, config.ctr, count, own_seed("m0", 0)))
        for count in (0, 1)
    ]
    assert np.array_equal(few[0], few[1])
    assert (few[0][1] > 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_holds_numbers(released_copy, monkeypatch, value):
    """The bits of what is no number say what their writer likes: 22 of each, in every weight of a model."""
    run = Forgery(released_copy)
    arrays = arrays_of(run)
    words = arrays["network.first.weight"]
    said = np.frombuffer(ROWS, "<u2")[: len(words)].astype(np.uint32)
    words.view(np.uint32)[:, 0] = 0x7FC00000 | said if np.isnan(value) else 0x7F800000
    publish(run, arrays)
    assert findings(released_copy)["publications"] == ["ctr/0: network.first.weight: holds what is no finite number"]
    monkeypatch.setattr(forms.np, "isfinite", lambda values: np.ones(np.shape(values), bool))
    monkeypatch.setattr(publications, "standardisation_findings", lambda *_: [])
    assert findings(released_copy) == {}  # as it was


def test_a_zero_has_no_sign():
    grid = Grid.of(1.0)
    values = grid.real(np.array([-3, 0, 5]))
    assert on_grid(values, grid, grid.most(1))
    signed = np.where(values == 0, -0.0, values)
    assert np.array_equal(signed, values)  # as it was compared
    assert not on_grid(signed, grid, grid.most(1))


def of_subspace(changed):
    """What a market published by subspace iterations, some of it changed; what is wrong with it."""
    factors = fix_signs(np.linalg.qr(np.random.default_rng(0).normal(size=(12, 3)))[0])
    found = {
        "factors": factors,
        "eigenvalues": np.array([5.0, 2.0, 1.0]),
        "noise_edge": np.array(subspace_edge(0.7, 12, 3)),
    }
    return forms._subspace_problem(found | changed, 0.7)


def test_what_follows_from_the_plan_of_subspace_iterations():
    """The length of noise is a constant, which rows could take the place of; lengths descend, and signs are chosen."""
    assert of_subspace({}) is None
    assert "noise alone reaches" in of_subspace({"noise_edge": as_numbers(1)[0]})
    assert "lengths that descend" in of_subspace({"eigenvalues": np.array([2.0, 5.0, 1.0])})
    assert "lengths that descend" in of_subspace({"eigenvalues": np.array([5.0, 2.0, -0.0])})
    factors = fix_signs(np.linalg.qr(np.random.default_rng(0).normal(size=(12, 3)))[0])
    assert "of the signs" in of_subspace({"factors": factors * [1.0, -1.0, 1.0]})
