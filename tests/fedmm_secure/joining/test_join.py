"""A head grown through the rounds of a run: what leaves, what it makes, and what verification says of it."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from experiments.verification.run import examine_run
from fedmm_secure.config.synthetic import SyntheticSpec
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.transcript import OWN_UPDATE, SUM, UPDATE, Transcript
from fedmm_secure.foreign.formats import parse_arrays
from fedmm_secure.guarantee.head_sums import head_bound, head_length
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.heads.examples import head_examples
from fedmm_secure.heads.generated import generated_head
from fedmm_secure.heads.trees import SCALE, HeadGrower, fit_head
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import read_ledger
from tests.command_line import fedmm
from tests.conftest import TINY, tiny
from tests.forgery import Forgery
from tests.released import HEAD, headed_configuration

CONFIG = headed_configuration()


@pytest.fixture(scope="module")
def run(headed_run):
    return headed_run


def kept(path):
    return parse_arrays(path.read_bytes(), path)


@pytest.mark.long
def test_every_market_has_the_head_of_all_examples_in_one_place(run):
    parts = [head_examples(prepared, CONFIG) for prepared in prepare_markets(CONFIG.data).values()]
    wanted = fit_head(HeadGrower.of(CONFIG), parts).to_arrays()
    for market in ("m0", "m1", "m2"):
        found = kept(RunDirectory(run).head(market))
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
    assert np.count_nonzero(wanted["value"]) > 2


def test_histograms_leave_masked_and_every_ledger_says_that_they_are_exact(run):
    """What the server relays of a market is not its histogram; the ledger has a line for each, without a bound."""
    transcript = Transcript(RunDirectory(run).transcript)
    rounds = [record for record in transcript.records if record.stage == "head" and record.kind == UPDATE]
    assert len(rounds) == 3 * 4
    own = Transcript(RunDirectory(run).private("m0"))
    values = own.find(kind=OWN_UPDATE, stage="head", round=0, sender="m0")
    sent = transcript.find(kind=UPDATE, stage="head", round=0, sender="m0")
    assert len(values) == 8 * head_length(CONFIG)
    assert np.frombuffer(values, "<i8")[:64].tobytes() not in sent
    total = np.frombuffer(transcript.find(kind=SUM, stage="head", round=0, sender="server"), "<i8")
    assert np.abs(total).max() > np.abs(np.frombuffer(values, "<i8")).max()
    for market in ("m0", "m1", "m2"):
        lines = [entry for entry in read_ledger(RunDirectory(run).ledger(market)).entries if entry.stage == "head"]
        assert [entry.round for entry in lines] == [0, 1, 2, 3]
        assert all(entry.mechanism == "none: exact sum of gradient histograms" for entry in lines)


def test_what_a_market_adds_stays_within_the_public_bound():
    markets = prepare_markets(CONFIG.data)
    sizes = {name: MarketSize(found.market.n_users, found.market.n_items) for name, found in markets.items()}
    grower = HeadGrower.of(CONFIG)
    for prepared in markets.values():
        found = grower.histograms(*head_examples(prepared, CONFIG))
        assert len(found) == head_length(CONFIG) == grower.length
        assert np.abs(found).max() <= head_bound(CONFIG, sizes)
    most = max(len(head_examples(prepared, CONFIG)[1]) for prepared in markets.values())
    assert most * SCALE <= head_bound(CONFIG, sizes)  # even where all of them were in one bin


def test_verification_grows_the_head_again(run, tmp_path):
    examined = examine_run(run)
    assert examined.findings == []
    path = RunDirectory(run).head("m1")
    before = path.read_bytes()
    arrays = kept(path)
    arrays["value"][0, 0] += 1e-6
    try:
        np.savez(path, **arrays)
        assert any("is not the head that the recorded sums grow" in str(found) for found in examine_run(run).findings)
    finally:
        path.write_bytes(before)


def test_a_head_has_no_guarantee_and_a_budget_refuses_it():
    with pytest.raises(ConfigError, match="which no budget covers"):
        tiny(head=HEAD, privacy={"epsilon": 8})


# -- a market that joins -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A configuration of four generated markets, whose last is in no run yet."""
    path = tmp_path_factory.mktemp("newcomer") / "four.yaml"
    synthetic = {**TINY["data"]["synthetic"], "markets": 4}
    path.write_text(yaml.safe_dump({"data": {"synthetic": synthetic}}))
    return path


def test_a_market_starts_from_the_head_and_the_frozen_codebook_of_others(run, newcomer, tmp_path, capsys):
    out = tmp_path / "m3"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, text, err = fedmm(capsys, "join", run, newcomer, "--market", "m3", "--out", out, "--json")
    assert (status, err) == (0, "")
    found = json.loads(text)
    assert set(found["auc"]) == {"federation", "own", "both", "popularity"}
    assert found["chosen"] == max(found["validation"], key=found["validation"].get)
    assert 0.5 < found["auc"]["federation"] < 1
    codes = pd.read_parquet(out / "codes" / "m3.parquet")
    assert set(codes["kind"]) == {"user", "item"}
    ours, theirs = (
        torch.load(path, weights_only=True)["global_codebook.codewords"]
        for path in (RunDirectory(out).quantizer("m3", 0, kind="refined"), RunDirectory(run).quantizer("m0", 0))
    )
    assert torch.equal(ours, theirs)
    assert RunDirectory(out).head("m3").read_bytes() == RunDirectory(run).head("m0").read_bytes()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_where_no_head_was_grown_it_starts_from_one_of_generated_markets(
    released_run, newcomer, tmp_path, capsys, monkeypatch
):
    """As with a budget, which covers no head: nobody's rows are in this one, and all who ask alike get the same."""
    public = partial(generated_head, markets=SyntheticSpec(users=60, items=30, seed=5))
    monkeypatch.setattr("fedmm_secure.joining.join.generated_head", public)
    out = tmp_path / "m3"
    status, text, err = fedmm(capsys, "join", released_run, newcomer, "--market", "m3", "--out", out, "--json")
    assert (status, err) == (0, "")
    found = json.loads(text)
    assert set(found["auc"]) == {"generated", "own", "both", "popularity"}
    assert set(found["validation"]) == {"generated", "own", "both"}
    assert found["epsilon"] is None
    wanted = public(tiny(data={"synthetic": {**TINY["data"]["synthetic"], "seed": 9}}).data).to_arrays()
    left = kept(RunDirectory(out).head("m3"))
    assert np.count_nonzero(wanted["value"]) > 20
    for name in wanted:
        np.testing.assert_array_equal(left[name], wanted[name])


@pytest.mark.parametrize(
    ("market", "damage", "message"),
    [
        ("m0", None, "whose head knows its rows"),
        ("m9", None, "the configuration's markets are"),
        ("m3", lambda run: [RunDirectory(run).head(name).unlink() for name in ("m0", "m1", "m2")], "no head of any"),
        ("m3", lambda run: np.savez(RunDirectory(run).head("m0"), feature=np.full((2, 3), 99)), "no head"),
        ("m3", lambda run: RunDirectory(run).head("m0").write_bytes(b"x"), "no arrays"),
    ],
)
def test_who_cannot_join_is_told_in_one_line(run, newcomer, tmp_path, capsys, market, damage, message):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    if damage is not None:
        damage(copy)
        Forgery(copy).finish(owner=True)  # whose head it is closes the ledger over it
    status, _, err = fedmm(capsys, "join", copy, newcomer, "--market", market, "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
