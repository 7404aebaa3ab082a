"""A run whose catalogues are found privately: it verifies, and another list of items than was found does not."""

import hashlib
import json
import shutil

import pytest

from experiments.commands.budget import _print_budget
from experiments.runs.budget import market_budget
from experiments.runs.markets import synthesize_files
from experiments.verification import verify_run
from fedmm_secure.config import SyntheticSpec, config_from_data
from fedmm_secure.data.prepare import load_markets, prepare_markets
from fedmm_secure.guarantee.stages import CATALOGUE
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.run_directory import read_metrics
from privacy.accounting.ledger import read_ledger
from tests.conftest import TINY
from tests.forgery import Forgery

MARKETS = ("m0", "m1", "m2")
PUBLISHED = "catalogue/0000-publication-m0.bin"


def settings(folder, protect):
    spec = SyntheticSpec(markets=3, users=400, items=140, mean_interactions=14)
    files = synthesize_files(spec, folder)
    markets = {}
    for name, file in files.items():
        markets[name] = file.model_dump(mode="json", exclude_none=True, exclude={"catalogue"})
    return config_from_data(
        {
            **TINY,
            "data": {"root": str(folder), "markets": markets},
            "embedding": {"kind": "dp-svd", "dim": 8, "private": {"dim": 4, "max_items": 20}},
            "privacy": {
                "epsilon": 15.0,
                "protect": protect,
                "catalogue": "discovered",
                "ctr": {"steps": 6},
                "quantizer": {"steps_per_round": 1},
                "shares": {"catalogue": 0.3},
                "pseudo_users": 200,
            },
            "ctr": {"baselines": ["popularity"], "max_epochs": 2},
            "federation": {"rounds": 1},
        },
        source="test",
    )


def finished_run(folder, protect):
    config = settings(folder / "data", protect)
    run_directory.create(folder / "run", config)
    run_pipeline(config, prepare_markets(config.data), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("discovered"), "release")


def test_a_run_on_discovered_items_verifies(released):
    assert verify_run(released) == []
    metrics = read_metrics(released)
    for market in MARKETS:
        ledger = read_ledger(released / "ledger" / f"{market}.jsonl")
        assert ledger.opening["items"] == 0  # what the rows hold is private
        assert ledger.opening["catalogue"] == {"kind": "discovered"}
        assert ledger.charges[0].entry.stage == CATALOGUE
        assert ledger.charges[0].entry.extra_delta > 0
        stated = metrics["privacy"]["catalogue"][market]
        found = (released / "transcript" / "catalogue" / f"0000-publication-{market}.bin").read_bytes()
        items = found.decode().splitlines()
        assert items == sorted(set(items))
        assert 50 <= len(items) == stated["size"] == metrics["markets"][market]["n_items"] < 140
        assert hashlib.sha256(found).hexdigest() == stated["sha256"]
        assert metrics["privacy"]["markets"][market]["stages"][CATALOGUE]["epsilon"] > 1


def test_under_protection_of_the_federation_items_stay_inside_and_the_run_verifies(tmp_path):
    directory = finished_run(tmp_path, "federation")
    assert not (directory / "transcript" / "catalogue" / "0000-publication-m0.bin").exists()
    assert verify_run(directory) == []


# what is found, of a run whose owner signed it again


def items_of(forged):
    return forged.read(PUBLISHED).decode().splitlines()


def publish(forged, items):
    forged.replace(PUBLISHED, "".join(f"{item}\n" for item in items).encode())


def another_item(forged):
    publish(forged, sorted([*items_of(forged)[1:], "m0-a-rare-one"]))


def an_item_more(forged):
    publish(forged, sorted([*items_of(forged), "m0-a-rare-one"]))


def an_item_twice(forged):
    publish(forged, [items_of(forged)[0], *items_of(forged)[:-1]])


def in_another_order(forged):
    publish(forged, items_of(forged)[::-1])


def a_line_that_is_no_id(forged):
    publish(forged, ["\x07", *items_of(forged)[1:]])


def another_item_stated_too(forged):
    another_item(forged)
    digest = forged.records[PUBLISHED].sha256
    forged.json("metrics.json", lambda found: found["privacy"]["catalogue"]["m0"].update(sha256=digest))


def another_size_stated(forged):
    def change(metrics):
        metrics["privacy"]["catalogue"]["m0"]["size"] += 1
        metrics["markets"]["m0"]["n_items"] += 1

    forged.json("metrics.json", change)


def declared_after_all(forged):
    forged.json("metrics.json", lambda found: found["privacy"]["catalogue"]["m0"].update(kind="declared"))


def opened_with_what_the_rows_hold(forged):
    forged.opening("m0")["items"] = 90


def not_charged(forged):
    forged.drop("m0", lambda line: line.stage == CATALOGUE)


FORGERIES = {
    "another item": (another_item, "discovered other items than its metrics state"),
    "an item more": (an_item_more, "items, where everything else has"),
    "an item twice": (an_item_twice, "is no list of distinct ids in ascending order"),
    "in another order": (in_another_order, "is no list of distinct ids in ascending order"),
    "a line that is no id": (a_line_that_is_no_id, "is no list of distinct ids in ascending order"),
    "another item, stated too": (another_item_stated_too, "are not those of the catalogue that the metrics state"),
    "another size": (another_size_stated, "items, where everything else has"),
    "declared, the metrics say": (declared_after_all, "catalogue: says 'declared', configured is discovered"),
    "opened with what the rows hold": (opened_with_what_the_rows_hold, "items: opened with 90"),
    "a discovery that is not charged": (not_charged, "catalogue is missing: planned, and neither charged nor noted"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_its_owner_cannot_state_other_items(released, tmp_path, name):
    shutil.copytree(released, tmp_path / "run")
    forge, expected = FORGERIES[name]
    forged = Forgery(tmp_path / "run")
    forge(forged)
    forged.finish(owner=True)
    assert expected in "\n".join(f"{found.where}: {found.what}" for found in verify_run(forged.directory))


def test_a_budget_says_that_the_number_of_items_is_not_known(tmp_path, capsys):
    """And plans the noise that the run is then opened with, whatever the rows hold."""
    config = settings(tmp_path, "release")
    markets = load_markets(config.data)
    found = market_budget(config, markets[0], markets)
    assert found["items"] is None
    assert found["stages"][CATALOGUE]["signal_to_noise"] is None
    assert found["stages"]["counts"]["signal_to_noise"] is None
    assert found["views"]["release"] <= 15.0
    _print_budget({"m0": found}, {"m0": "0.1 to 40"})
    assert "to be discovered" in capsys.readouterr().out
    json.dumps(found)
