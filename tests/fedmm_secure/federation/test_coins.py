from dataclasses import asdict, replace

import pytest

from fedmm_secure.config import configuration_hash
from fedmm_secure.config.audit import AuditConfig, CardConfig
from fedmm_secure.errors import ConfigError, LostResultError
from fedmm_secure.federation.coin_book import enter_tosses
from fedmm_secure.federation.coins import (
    CoinError,
    Coins,
    CoinsAwaitedError,
    Toss,
    asked_tosses,
    hand_in,
    noted_coin,
    stated_toss,
    write_answers,
)
from fedmm_secure.federation.noise_chain import NoiseChain, links, release_key
from fedmm_secure.federation.parties import open_federation
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.aggregation.identities import Identity
from tests.conftest import tiny
from tests.released import PRIVATE

AUDITOR = Identity.generate("auditor")
COUNTS = ("counts", None, None)


@pytest.fixture
def market(tmp_path):
    """A market's part of a toss, and its ledger, opened."""
    return begun(tmp_path)


def begun(folder, auditor=AUDITOR, run="run"):
    coins, ledger = Coins(auditor.card, "m0", run, folder / "keys"), Ledger(folder / "ledger" / "m0.jsonl")
    fields = {"run": run, "market": "m0", "data": "rows", "configuration": "c"}
    ledger.open(fields | coins.stated(ledger.opening, 0))
    return coins, ledger


def answered(folder, auditor=AUDITOR):
    write_answers(folder / "coins.json", auditor, asked_tosses(folder, auditor))
    hand_in(folder / "coins.json", folder / "handed-in.json")
    return folder / "handed-in.json"


def test_both_sides_make_the_same_keys_and_the_ledger_shows_the_coin(market, tmp_path):
    coins, ledger = market
    assert coins.chain(ledger, 1e-3, tmp_path / "nothing-yet.json") is None
    chain = coins.chain(ledger, 1e-3, answered(tmp_path))
    content = read_ledger(ledger.path)
    first = Toss.of(content, AUDITOR.card).first_link(AUDITOR)
    assert chain.key(0, "m0", COUNTS) == release_key(first, "m0", COUNTS)
    assert noted_coin(content.entries) == Toss.of(content, AUDITOR.card).answer(AUDITOR).hex()
    assert not list((tmp_path / "keys").glob("coin*"))


def test_each_run_and_market_has_another_coin(tmp_path):
    firsts = set()
    for name in ("a", "b"):
        begun(tmp_path / name)
        (toss,) = asked_tosses(tmp_path / name, AUDITOR)
        firsts |= {toss.first_link(AUDITOR), replace(toss, sealed=toss.sealed).answer(AUDITOR)}
    assert len(firsts) == 4


@pytest.mark.parametrize("wrong", ["another auditor", "another first line", "another spelling"])
def test_a_coin_that_is_not_the_auditors_for_this_line_is_refused(market, tmp_path, wrong):
    coins, ledger = market
    (toss,) = asked_tosses(tmp_path, AUDITOR)
    coin = toss.answer(Identity.generate("auditor") if wrong == "another auditor" else AUDITOR).hex()
    if wrong == "another first line":
        coin = replace(toss, opening="0" * 64).answer(AUDITOR).hex()
    if wrong == "another spelling":
        coin = coin.upper()
    (tmp_path / "wrong.json").write_text(f'{{"coins": {{"m0": "{coin}"}}}}')
    with pytest.raises(CoinError, match="is not one that auditor"):
        coins.chain(ledger, 1e-3, tmp_path / "wrong.json")
    assert len(ledger.entries) == 0


def test_the_sealed_coin_binds_the_market(market, tmp_path):
    """Whatever it sealed is what the auditor opens; what was sealed for another run opens as nothing."""
    _, ledger = market
    (toss,) = asked_tosses(tmp_path, AUDITOR)
    with pytest.raises(CoinError, match="does not open"):
        replace(toss, run="another").first_link(AUDITOR)
    with pytest.raises(CoinError, match="does not open"):
        replace(toss, sealed=toss.sealed[:-1] + bytes([toss.sealed[-1] ^ 1])).first_link(AUDITOR)
    with pytest.raises(CoinError, match="does not name the card"):
        Toss.of(read_ledger(ledger.path), Identity.generate("auditor").card)


def test_a_coin_is_tossed_for_a_first_line_alone(market, tmp_path):
    """Once a market knows the auditor's coin it knows its noise: who asks then may ask for anything."""
    coins, ledger = market
    coins.chain(ledger, 1e-3, answered(tmp_path))
    with pytest.raises(CoinError, match="has 2 lines"):
        asked_tosses(tmp_path, AUDITOR)


def test_the_book_says_how_often_a_market_asked_for_coins(tmp_path):
    for number in range(3):
        begun(tmp_path / str(number), run=f"run-{number}")
    tosses = [asked_tosses(tmp_path / str(number), AUDITOR) for number in range(3)]
    assert [enter_tosses(tmp_path, found)["m0"] for found in tosses] == [0, 1, 2]
    assert enter_tosses(tmp_path, tosses[1])["m0"] == 2  # the same again is no other: what was asked stays
    assert enter_tosses(tmp_path, [replace(tosses[0][0], market="m1", opening="f" * 64)])["m1"] == 0


def test_an_old_copy_does_not_go_on(market):
    coins, ledger = market
    with pytest.raises(CoinError, match="old copy of its state"):
        coins.stated(ledger.opening, 1)


def test_a_link_is_gone_once_its_release_is_charged(tmp_path):
    chain, (first, second, third) = NoiseChain(tmp_path), take(3)
    chain.begin(first)
    assert chain.key(0, "m0", COUNTS) == release_key(first, "m0", COUNTS)
    chain.go_on(1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [second]
    assert chain.key(2, "m0", COUNTS) == release_key(third, "m0", COUNTS)  # killed between a charge and this
    with pytest.raises(LostResultError, match="the link of the noise that comes next is gone"):
        chain.key(1, "m0", COUNTS)  # an older copy of the ledger


def test_keys_of_a_link_are_for_one_release_of_one_market():
    keys = {release_key(b"l" * 32, market, (stage, None, None)) for market in ("a", "b") for stage in ("x", "y")}
    assert len(keys) == 4


def take(count):
    made = links(b"k" * 32)
    return [next(made) for _ in range(count)]


SETTINGS = {"privacy": {"epsilon": 8.0, "protect": "release", "ctr": {"steps": 4}}, "embedding": PRIVATE,
            "ctr": {"baselines": []}}  # fmt: skip


def test_a_run_waits_for_its_coins_and_resumes_where_it_was(tiny_markets, tmp_path):
    config = tiny(**SETTINGS).model_copy(update={"audit": AuditConfig(replay=CardConfig(**asdict(AUDITOR.card)))})
    for _ in range(2):  # a second start changes nothing
        with pytest.raises(CoinsAwaitedError, match="awaits coins for m0, m1, m2"):
            open_federation(config, tiny_markets, tmp_path)
    write_answers(tmp_path / "coins.json", AUDITOR, asked_tosses(tmp_path, AUDITOR))
    tosses = {toss.market: toss for toss in asked_tosses(tmp_path, AUDITOR)}
    hand_in(tmp_path / "coins.json", tmp_path / "state" / "coins.json")
    drawn = []
    for _ in range(2):
        federation = open_federation(config, tiny_markets, tmp_path)
        plan, door = federation.plans["m0"], federation.doors["m0"]
        drawn.append(door.begin(plan.counts()).key)
    made = links(tosses["m0"].first_link(AUDITOR))
    wanted = release_key(next(made), "m0", COUNTS)
    assert drawn == [wanted, wanted]
    assert door.begin(plan.embedding()).key == release_key(next(made), "m0", ("embedding", None, None))


def test_a_configuration_names_a_card_that_holds_and_a_budget():
    card = asdict(AUDITOR.card)
    with pytest.raises(ConfigError, match="not signed by auditor"):
        tiny(**SETTINGS, audit={"replay": card | {"proof": "00" * 64}})
    with pytest.raises(ConfigError, match=r"audit\.replay needs privacy\.epsilon"):
        tiny(audit={"replay": card})
    seeded = SETTINGS | {"privacy": SETTINGS["privacy"] | {"noise_seed": 1}}
    with pytest.raises(ConfigError, match=r"no privacy\.noise_seed"):
        tiny(**seeded, audit={"replay": card})


def test_a_configuration_without_an_audit_keeps_its_hash():
    plain = tiny()
    assert configuration_hash(plain) == configuration_hash(plain.model_copy(update={"audit": AuditConfig()}))
    named = tiny(**SETTINGS, audit={"replay": asdict(AUDITOR.card)})
    assert configuration_hash(named) != configuration_hash(tiny(**SETTINGS))
    assert stated_toss(plain, {}) == {}
