"""Which items exist follows from the catalogue, never from the rows; what is measured follows from the rows alone."""

import gzip
import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments.reports.run import write_report
from experiments.runs.configuration import resolve, shipped
from fedmm_secure import FedMM, load_market
from fedmm_secure.config import SyntheticSpec, config_from_data
from fedmm_secure.data.catalogue import Catalogue, read_catalogue
from fedmm_secure.data.market import build_market, restrict
from fedmm_secure.data.prepare import prepare, prepare_markets
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.errors import ConfigError, DataError
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.places import users_account
from tests.command_line import fedmm
from tests.conftest import TINY, tiny

IDS = ["b", "a", "品目", "a b", "#1"]


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_is_read_however_it_was_written(tmp_path):
    plain = read_catalogue(write(tmp_path / "plain.txt", "".join(f"{i}\n" for i in IDS)))
    assert plain.items.tolist() == sorted(IDS)
    assert plain.stated() == {
        "kind": "file",
        "size": 5,
        "sha256": hashlib.sha256("#1\na\na b\nb\n品目\n".encode()).hexdigest(),
    }
    texts = {
        "no end": "\n".join(IDS),
        "windows": "\ufeff" + "".join(f"{i}\r\n" for i in IDS),
        "reordered": "".join(f"{i}\n" for i in reversed(IDS)),
    }
    for name, text in texts.items():
        assert read_catalogue(write(tmp_path / name, text)).sha256 == plain.sha256, name
    zipped = gzip.compress("".join(f"{i}\n" for i in IDS).encode())
    assert read_catalogue(write(tmp_path / "zipped.txt.gz", zipped)).sha256 == plain.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", r":3: item id 'a' again, after line 1"),
        ("a\n\nb\n", r":2: empty line"),
        ("a\n b\n", r":2: item id ' b' starts or ends with a blank"),
        ("a\nb\tc\n", r":2: item id 'b\\tc' holds a control character"),
        ("a\nb\u2028c\n", r":2: item id .* holds a control character"),
        (b"a\nb\ncaf\xe9\n", r":3: not UTF-8"),
        (gzip.compress(b"a\n" * 99, mtime=0)[:-9], r": cannot be read"),
    ],
)
def test_lines_that_are_no_ids_are_refused_by_file_and_line(tmp_path, text, message):
    path = write(tmp_path / "c.txt", text)
    with pytest.raises(DataError, match=message) as caught:
        read_catalogue(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_shipped_names_lead_to_shipped_files_alone(tmp_path):
    with pytest.raises(DataError, match="did you mean 'shipped:xmarket-electronics/jp'"):
        read_catalogue(Path("shipped:xmarket-electronics/jpp"))
    for name in ("shipped:../catalogue", "shipped:xmarket-electronics/../README", f"shipped:{tmp_path}/x"):
        with pytest.raises(DataError, match="no catalogue of this name comes with the package"):
            read_catalogue(Path(name))
    with pytest.raises(DataError, match="no such catalogue file"):
        read_catalogue(tmp_path / "none.txt")


def test_shipped_catalogues_are_the_items_of_the_whole_data_set(real_data, monkeypatch):
    monkeypatch.setenv("FEDMM_DATA", str(real_data))
    for name, file in resolve("xmarket-release").data.markets.items():
        path = real_data / file.path
        found = pd.read_csv(path, sep=" ", dtype=str)["itemId"].unique()
        assert read_catalogue(file.catalogue).items.tolist() == sorted(found), name


def test_a_market_has_exactly_the_items_of_its_catalogue(tiny_markets):
    whole = tiny_markets["m0"].whole.market
    kept = [str(item) for item in whole.item_ids[::2]]
    catalogue = Catalogue.of("file", [*kept, "m0-nobody", "a-nobody"])
    market = restrict(whole, catalogue)
    assert market.item_ids.tolist() == sorted([*kept, "m0-nobody", "a-nobody"])
    assert market.user_ids.tolist() == whole.user_ids.tolist()

    def rows(market):
        columns = (market.user_ids[market.user], market.item_ids[market.item], market.rating, market.time)
        return list(zip(*columns, strict=True))

    assert rows(market) == [row for row in rows(whole) if row[1] in kept]


def test_a_catalogue_that_covers_everything_changes_no_number():
    """Items in the order of their ids, and nothing to leave out: every array is what it was."""
    config = tiny().data
    (planted, *_) = synthesize(config.synthetic)
    names = [str(name) for name in planted.market.item_ids[planted.market.item]]
    users = [str(name) for name in planted.market.user_ids[planted.market.user]]
    given = {"users": users, "items": names, "ratings": planted.market.rating, "times": planted.market.time}
    declared = prepare(build_market("m0", **given), config)
    stated = prepare(build_market("m0", **given, catalogue=Catalogue.of("file", names[::-1])), config)
    assert (declared.catalogue.kind, stated.catalogue.kind) == ("declared", "file")
    for part in fields(declared):
        left, right = getattr(declared, part.name), getattr(stated, part.name)
        if not is_dataclass(left):
            assert left == right
            continue
        for field in fields(left):
            if field.name not in ("market", "split", "pool", "valid", "test", "catalogue"):
                np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))
    scores = np.random.default_rng(0).random(len(stated.test))
    np.testing.assert_array_equal(stated.complete(scores), scores)


def _lacking(prepared, config, share=0.6):
    """The same market with a catalogue that lacks items, and one item that nobody met."""
    items = [str(item) for item in prepared.whole.market.item_ids]
    kept = np.random.default_rng(0).choice(items, round(share * len(items)), replace=False)
    catalogue = Catalogue.of("file", [*kept, "zzz-nobody"])
    return prepare(replace(prepared.whole.market, catalogue=catalogue), config)


def test_what_is_measured_stays_the_same_and_an_item_outside_gets_the_prior(tiny_markets):
    full = tiny_markets["m0"]
    lacking = _lacking(full, tiny().data)
    assert lacking.whole.test.sha256() == full.whole.test.sha256()
    ids = full.whole.market.item_ids
    inside = np.isin(ids[full.whole.test.item].astype(str), lacking.market.item_ids.astype(str))
    assert 0.3 < inside.mean() < 0.9
    np.testing.assert_array_equal(lacking.test.user, full.test.user[inside])
    np.testing.assert_array_equal(lacking.test.label, full.test.label[inside])
    assert lacking.market.item_ids[lacking.test.item].tolist() == ids[full.test.item[inside]].tolist()
    scores = np.random.default_rng(0).random(inside.sum())
    complete = lacking.complete(scores)
    np.testing.assert_array_equal(complete[inside], scores)
    np.testing.assert_array_equal(complete[~inside], scores.mean())
    # nothing that is trained on knows of an item outside
    assert set(ids[full.pool.items]) - set(lacking.market.item_ids[lacking.pool.items]) == (
        set(ids[full.pool.items]) - set(lacking.market.item_ids)
    )
    for rows in (lacking.split.train, lacking.split.valid, lacking.split.test):
        assert rows.max() < lacking.market.n_rows


def test_splits_are_those_of_all_rows(tiny_markets):
    """A catalogue moves no row from one part to another."""
    full = tiny_markets["m0"]
    lacking = _lacking(full, tiny().data)

    def pairs(prepared, rows):
        market = prepared.market
        return set(zip(market.user_ids[market.user[rows]], market.item_ids[market.item[rows]], strict=True))

    for part in ("train", "valid", "test"):
        everything = pairs(full, getattr(full.split, part))
        kept = {pair for pair in everything if pair[1] in set(lacking.market.item_ids)}
        assert pairs(lacking, getattr(lacking.split, part)) == kept


def test_generated_markets_have_items_that_nobody_met():
    (planted,) = synthesize(SyntheticSpec(markets=1, users=20, items=400, popularity_exponent=2.0))
    market = planted.market
    assert market.n_items == 400 > len(np.unique(market.item))
    assert market.catalogue.kind == "synthetic"
    assert len(planted.shared_prototype) == 400


@pytest.fixture
def files(tmp_path, capsys):
    """Three markets as files, whose catalogues lack some items of the rows; and a configuration for them."""
    assert fedmm(capsys, "data", "synthesize", tmp_path / "data", "--users", 80, "--items", 40)[0] == 0
    markets = {}
    for name in ("m0", "m1", "m2"):
        items = (tmp_path / "data" / f"{name}.items.txt").read_text().splitlines(keepends=True)
        (tmp_path / "data" / f"{name}.items.txt").write_text("".join(items[:30]))
        markets[name] = {"path": f"{name}.csv", "user": "user", "item": "item", "time": "time"}
        markets[name]["catalogue"] = f"{name}.items.txt"
    data = {"root": str(tmp_path / "data"), "markets": markets}
    config = {**TINY, "data": data, "privacy": {**TINY["privacy"], "catalogue": "file"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.long
def test_a_run_says_which_catalogue_it_used_and_hides_what_that_left_out(files, capsys):
    path = files / "own.yaml"
    status, out, _ = fedmm(capsys, "data", "check", path)
    assert (status, "m0: catalogue of 30 items (file)" in out) == (0, True)
    assert fedmm(capsys, "run", path, "--out", files / "run", "--quiet")[0] == 0
    metrics = json.loads((files / "run" / "metrics.json").read_text())
    expected = read_catalogue(files / "data" / "m1.items.txt")
    assert metrics["privacy"]["catalogue"]["m1"] == {"kind": "file", "sha256": expected.sha256, "size": 30}
    assert metrics["markets"]["m1"]["n_items"] == 30

    # what is measured is what it would be with all items
    declared = yaml.safe_load(path.read_text())
    declared["privacy"]["catalogue"] = "declared"
    for market in declared["data"]["markets"].values():
        del market["catalogue"]
    everything = prepare_markets(config_from_data(declared, source="test").data)["m1"]
    account = PrivacyAccount(users_account())
    assert metrics["markets"]["m1"]["candidates"] == account.fingerprint(everything.test.columns())
    assert metrics["markets"]["m1"]["n_test"] == len(everything.test)
    kept = pd.read_parquet(files / "run" / "predictions" / "m1.parquet")
    outside = kept[kept["item"] < 0]
    assert 0 < len(outside) < len(kept) == len(everything.test)
    for model in [column for column in kept if "/" in column]:
        prior = kept.loc[kept["item"] >= 0, model].mean()
        np.testing.assert_allclose(outside[model], prior, rtol=1e-12)

    # the number of rows left out is in the private log alone
    lines = [json.loads(line) for line in (files / "run" / "log.jsonl").read_text().splitlines()]
    told = {line["market"]: line for line in lines if line["event"] == "market"}
    left_out = (
        everything.market.n_rows
        - np.isin(everything.market.item_ids[everything.market.item].astype(str), expected.items.astype(str)).sum()
    )
    assert told["m1"]["rows_outside_catalogue"] == left_out > 0
    write_report(files / "run")
    for file in ("metrics.json", "report.html"):
        assert "outside_catalogue" not in (files / "run" / file).read_text()
    page = (files / "run" / "report.html").read_text()
    assert "Item catalogue from a public file" in page
    assert expected.sha256 in page


FILES = {name: {"path": f"{name}.csv", "user": "user", "item": "item", "time": "time"} for name in ("m0", "m1", "m2")}
NAMED = {name: {**file, "catalogue": f"{name}.txt"} for name, file in FILES.items()}
RELEASE = {"epsilon": 8.0, "protect": "release"}


@pytest.mark.parametrize(
    ("markets", "privacy", "message"),
    [
        (FILES, RELEASE, "privacy.protect: release needs privacy.catalogue"),
        (NAMED, RELEASE, "data.markets.m0.catalogue needs privacy.catalogue: file"),
        (NAMED, {**RELEASE, "catalogue": "declared"}, "data.markets.m0.catalogue needs privacy.catalogue: file"),
        (FILES, {"catalogue": "file"}, "privacy.catalogue: file needs data.markets.m0.catalogue"),
        ({**NAMED, "m1": FILES["m1"]}, {"catalogue": "file"}, "needs data.markets.m1.catalogue"),
        (FILES, {"catalogue": "discovered"}, "privacy.catalogue: discovered needs privacy.epsilon"),
        (None, {"catalogue": "declared"}, "generated markets have a catalogue of their own"),
        (None, {"catalogue": "file"}, "generated markets have a catalogue of their own"),
    ],
)
def test_nothing_is_chosen_silently_where_models_are_released(markets, privacy, message):
    data = TINY["data"] if markets is None else {"markets": markets}
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_data({"data": data, "privacy": privacy}, source="test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("markets", "privacy", "kind"),
    [
        (FILES, {}, "declared"),
        (FILES, {"epsilon": 8.0}, "declared"),
        (FILES, {**RELEASE, "catalogue": "declared"}, "declared"),
        (FILES, {**RELEASE, "catalogue": "discovered"}, "discovered"),
        (NAMED, {**RELEASE, "catalogue": "file"}, "file"),
        (None, RELEASE, "synthetic"),
        (None, {**RELEASE, "catalogue": "discovered"}, "discovered"),
    ],
)
def test_where_the_items_come_from(markets, privacy, kind):
    data = TINY["data"] if markets is None else {"markets": markets}
    assert config_from_data({"data": data, "privacy": privacy}, source="test").catalogue == kind


def test_shipped_configurations_that_bound_users_name_public_catalogues():
    found = {name: resolve(name) for name in shipped()}
    kinds = {name: config.catalogue for name, config in found.items() if config.privacy.epsilon is not None}
    assert kinds.pop("quickstart") == "synthetic"
    assert kinds == dict.fromkeys(("custom-csv", "xmarket-release", "xmarket-release-shared", "xmarket-dp"), "file")


def test_markets_from_python_bring_their_catalogues(files):
    columns = {"user": "user", "item": "item", "time": "time"}
    folder = files / "data"
    markets = {
        name: load_market(folder / f"{name}.csv", catalogue=folder / f"{name}.items.txt", **columns)
        for name in ("m0", "m1", "m2")
    }
    sections = {key: value for key, value in TINY.items() if key != "data"}
    model = FedMM(**sections).fit(markets)
    assert {found["kind"] for found in model.metrics_["privacy"]["catalogue"].values()} == {"file"}
    outside = next(item for item in markets["m0"].item_ids if item not in set(markets["m0"].catalogue.items))
    with pytest.raises(DataError, match=f"no item '{outside}' among its catalogue"):
        model.predict("m0", [markets["m0"].user_ids[0]], [outside])


def test_a_market_of_fewer_public_items_than_a_model_needs_is_refused(tmp_path):
    catalogue = write(tmp_path / "c.txt", "i0\ni1\n")
    rows = "".join(f"u{user},i{item}\n" for user in range(12) for item in range(12))
    path = write(tmp_path / "m.csv", f"user,item\n{rows}")
    with pytest.raises(DataError, match="only 2 items; a market needs at least 10"):
        load_market(path, user="user", item="item", catalogue=catalogue)
