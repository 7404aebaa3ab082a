"""Two runs whose rows differ by those of one user, under one noise: what differs in what is handed out is released.

Whatever else differed would say of that user's rows what no noise covers: a length, a count, an order, a figure.
"""

import json

import pytest

from fedmm_secure.data.prepare import prepare_markets, sizes
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from privacy.accounting.ledger import read_ledger
from tests.adversary.test_order_of_files import without
from tests.conftest import alone
from tests.handing_out import PRIVATE, class_of, files
from tests.people import of_people
from tests.released import release_configuration

RELEASES = ("publication", "update", "aggregate", "sum")  # noise is in them, or in what they encrypt
OF_THE_RUN = ("data", "environment", "federation", "run")  # hashes under keys of the run, and of what keys are in


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    settings = release_configuration(noise_seed=7, shares={"evaluation": 0.1})
    markets = prepare_markets(settings.data)
    other = {**markets, "m0": without(markets["m0"], settings)}
    assert sizes(markets["m0"]) != sizes(other["m0"])  # what metrics of exact figures would say of it
    runs = []
    for name, rows in (("first", markets), ("other", other)):  # of one length: the configuration names the account
        directory = tmp_path_factory.mktemp(name) / "run"
        people = alone(of_people(settings), directory)
        run_directory.create(directory, people)
        run_pipeline(people, rows, directory)
        runs.append(directory)
    return runs


def handed(run):
    """Files that may be handed out."""
    return {name for name in files(run) if class_of(name, released=True) != PRIVATE}


def said(path):
    return json.loads(path.read_text(encoding="utf-8"))


def leaves(value, at=()):
    if isinstance(value, dict):
        return {leaf: found for key, inner in value.items() for leaf, found in leaves(inner, (*at, key)).items()}
    if isinstance(value, list):
        return {leaf: found for key, inner in enumerate(value) for leaf, found in leaves(inner, (*at, key)).items()}
    return {at: value}


@pytest.mark.slow
def test_files_have_the_same_names_and_lengths(neighbours):
    assert handed(neighbours[0]) == handed(neighbours[1])
    named = handed(neighbours[0]) - {"metrics.json"}  # whose figures have as many digits as they have: see below
    first, second = ({name: (run / name).stat().st_size for name in named} for run in neighbours)
    assert first == second


@pytest.mark.slow
def test_figures_that_differ_are_those_of_noisy_histograms(neighbours):
    first, second = (leaves(said(run / "metrics.json")) for run in neighbours)
    assert first.keys() == second.keys()
    differing = {at for at in first if first[at] != second[at]}
    assert {at[0] for at in differing} <= {"markets", "macro"}
    assert {at[1] for at in differing if at[0] == "markets"} <= {"m0"}
    assert {at[2 if at[0] == "markets" else 1] for at in differing} <= {
        "auc", "auc_by_seed", "auc_interval", "logloss", "logloss_interval",
    }  # fmt: skip


@pytest.mark.slow
def test_ledgers_say_the_same_but_for_hashes(neighbours):
    for market in ("m0", "m1", "m2"):
        first, second = (read_ledger(run / "ledger" / f"{market}.jsonl") for run in neighbours)
        assert first.kinds == second.kinds
        assert first.entries == second.entries
        assert {name for name in first.opening if first.opening[name] != second.opening[name]} <= set(OF_THE_RUN)
        named, others = (set(content.closing["private"]) for content in (first, second))
        assert named == others


@pytest.mark.slow
def test_records_that_differ_are_releases(neighbours):
    first, second = (
        {record["file"]: record for record in map(json.loads, (run / "transcript" / "index.jsonl").open())}
        for run in neighbours
    )
    differing = {file for file in first if first[file] != second[file]}
    assert {first[file]["kind"] for file in differing} <= {*RELEASES, "hello", "start", "statement"}
    for file in differing:
        assert {name for name in first[file] if first[file][name] != second[file][name]} == {"sha256"}
        if (
            first[file]["kind"] == "publication" and first[file]["sender"] != "m0"
        ):  # others know of it by the sums alone
            assert first[file]["stage"].startswith("quantizer-model")
