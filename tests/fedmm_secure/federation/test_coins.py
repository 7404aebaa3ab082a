import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from fedmm_secure.config import configuration_hash
from fedmm_secure.config.audit import AuditConfig, CardConfig
from fedmm_secure.errors import ConfigError, LostResultError
from fedmm_secure.federation.coin_book import Before, enter_tosses
from fedmm_secure.federation.coins import (
    CoinError,
    Coins,
    CoinsAwaitedError,
    first_link,
    hand_in,
    noted_coin,
    stated_toss,
)
from fedmm_secure.federation.noise_chain import NoiseChain, links, release_key
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.federation.tosses import Toss, asked_tosses, write_answers
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.accounting.lines import canonical_json
from privacy.aggregation.at_rest import LockedFiles
from privacy.aggregation.identities import Identity, seal
from privacy.files import KeyFileError
from tests.conftest import tiny
from tests.released import PRIVATE

AUDITOR = Identity.generate("auditor")
COUNTS, EMBEDDING = ("counts", None), ("embedding", None)
OWNER = Identity.generate("m0")
ROWS = "d" * 64
PLAN = SimpleNamespace(delta=1e-3, drawing=[COUNTS, ("quantizer/0", 0), ("quantizer/0", 1), EMBEDDING])


@pytest.fixture
def market(tmp_path):
    """A market's part of a toss, and its ledger, opened."""
    return begun(tmp_path)


def begun(folder, auditor=AUDITOR, run="run", market="m0", owner=OWNER, rows=ROWS):
    files = LockedFiles(folder / "keys", b"k" * 32)
    coins, ledger = Coins(auditor.card, market, run, owner, files), Ledger(folder / "ledger" / f"{market}.jsonl")
    fields = {"run": run, "market": market, "data": "rows", "configuration": "c"}
    ledger.open(fields | coins.stated(ledger.opening, 0, lambda reader: rows))
    return coins, ledger


def answered(folder, auditor=AUDITOR):
    write_answers(folder / "coins.json", auditor, asked_tosses(folder, auditor))
    hand_in(folder / "coins.json", folder / "handed-in.json")
    return folder / "handed-in.json"


def test_both_sides_make_the_same_keys_and_the_ledger_shows_the_coin(market, tmp_path):
    coins, ledger = market
    assert coins.chain(ledger, PLAN, tmp_path / "nothing-yet.json") is None
    chain = coins.chain(ledger, PLAN, answered(tmp_path))
    content = read_ledger(ledger.path)
    first = Toss.of(content, AUDITOR.card).first_link(AUDITOR)
    assert chain.key(COUNTS) == release_key(first, "m0", COUNTS)
    assert noted_coin(content.entries) == Toss.of(content, AUDITOR.card).answer(AUDITOR).hex()
    assert not list((tmp_path / "keys").glob("coin*"))


def test_a_finished_run_of_an_earlier_version_is_still_opened(tmp_path):
    """Its first line holds a coin alone, which nobody signed for; no coin is tossed for one any more."""
    coin, ledger = b"c" * 32, Ledger(tmp_path / "ledger" / "m0.jsonl")
    context = {"market": "m0", "run": "run"}
    asked = {"auditor": AUDITOR.card.fingerprint, "sealed": seal(coin, AUDITOR.card, canonical_json(context)).hex()}
    ledger.open({**context, "data": "rows", "configuration": "c", "replay": asked})
    toss = Toss.of(read_ledger(ledger.path), AUDITOR.card)
    assert (toss.card, toss.by_place, toss.rows(AUDITOR)) == (None, False, "")
    assert toss.first_link(AUDITOR) == first_link(coin, toss.answer(AUDITOR), "m0", "run")
    config = tiny(**SETTINGS).model_copy(update={"audit": AuditConfig(replay=CardConfig(**asdict(AUDITOR.card)))})
    assert stated_toss(config, "m0", ledger.opening) == {"replay": asked}


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
        coins.chain(ledger, PLAN, tmp_path / "wrong.json")
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
    coins.chain(ledger, PLAN, answered(tmp_path))
    with pytest.raises(CoinError, match="has 2 lines"):
        asked_tosses(tmp_path, AUDITOR)


def test_the_book_knows_a_market_by_its_card_and_by_its_rows(tmp_path):
    """Its name is its own choice: here it is another one each time."""

    def entered(number, **told):
        begun(tmp_path / str(number), run=f"run-{number}", market=f"m{number}", **told)
        tosses = asked_tosses(tmp_path / str(number), AUDITOR)
        return enter_tosses(tmp_path, tosses, AUDITOR)[f"m{number}"]

    somebody, other_rows = Identity.generate("m0"), "e" * 64
    assert entered(0) == Before(card=0, rows=0)
    assert entered(1, rows=other_rows) == Before(card=1, rows=0)
    assert entered(2, owner=somebody) == Before(card=0, rows=1)
    assert entered(3) == Before(card=2, rows=2)
    assert entered(4, owner=Identity.generate("m0"), rows="f" * 64) == Before(card=0, rows=0)
    again = asked_tosses(tmp_path / "3", AUDITOR)
    assert enter_tosses(tmp_path, again, AUDITOR)["m3"] == Before(card=2, rows=2)  # is no other: what was asked stays


def test_one_card_may_sign_for_the_markets_of_a_run(tmp_path):
    begun(tmp_path / "run")
    begun(tmp_path / "run", market="m1", rows="e" * 64)
    begun(tmp_path / "run", market="m2")  # the same rows once more, under another name
    before = enter_tosses(tmp_path, asked_tosses(tmp_path / "run", AUDITOR), AUDITOR)
    assert before == {"m0": Before(0, 1, 2), "m1": Before(0, 0, 2), "m2": Before(0, 1, 2)}


def test_a_book_of_an_earlier_version_still_counts_by_name(tmp_path):
    line = {"market": "m0", "run": "old", "data": "d", "opening": "o", "configuration": "c"}
    (tmp_path / "coins.jsonl").write_text(json.dumps(line) + "\n")
    begun(tmp_path / "run")
    assert enter_tosses(tmp_path, asked_tosses(tmp_path / "run", AUDITOR), AUDITOR)["m0"] == Before(card=1, rows=0)


@pytest.mark.parametrize("forged", ["card", "signature", "sealed", "version"])
def test_nobody_asks_for_a_coin_in_anothers_name(tmp_path, forged):
    """Who could would fill the book against him, or keep it empty; an earlier version's request names nobody."""
    ledger = Ledger(tmp_path / "ledger" / "m0.jsonl")
    fields = {"run": "run", "market": "m0", "data": "rows", "configuration": "c"}
    coins = Coins(AUDITOR.card, "m0", "run", OWNER, LockedFiles(tmp_path / "keys", b"k" * 32))
    asked = coins.stated({}, 0, lambda reader: ROWS)["replay"]
    changed = {
        "card": asked | {"card": asdict(Identity.generate("m0").card)},
        "signature": asked | {"signature": asked["signature"].upper()},
        "sealed": asked | {"sealed": asked["sealed"][:-2] + "00"},
        "version": {name: asked[name] for name in ("auditor",)} | {"sealed": "ab" * 80},
    }[forged]
    ledger.open(fields | {"replay": changed})
    with pytest.raises(CoinError, match=r"no way of this version|by an earlier version"):
        asked_tosses(tmp_path, AUDITOR)


def test_an_old_copy_does_not_go_on(market):
    coins, ledger = market
    with pytest.raises(CoinError, match="old copy of its state"):
        coins.stated(ledger.opening, 1, lambda reader: ROWS)


@pytest.fixture
def chain(tmp_path):
    found = NoiseChain(LockedFiles(tmp_path / "chain", b"k" * 32), "m0", PLAN.drawing)
    found.begin(b"k" * 32)
    return found


def test_a_link_is_gone_once_its_place_is_charged(chain, tmp_path):
    first, second, _, last = take(4)
    assert chain.key(COUNTS) == release_key(first, "m0", COUNTS)
    chain.leave(COUNTS)
    files = LockedFiles(tmp_path / "chain", b"k" * 32)
    assert [files.read(name) for name in files.names("*")] == [second]
    assert chain.key(EMBEDDING) == release_key(last, "m0", EMBEDDING)  # killed between a charge and this
    with pytest.raises(LostResultError, match="the link of the noise that comes next is gone"):
        chain.key(COUNTS)  # an older copy of the ledger


def test_a_place_that_is_missed_shifts_no_later_noise(chain):
    """Who could shift it would choose among as many noises as there are rounds to miss."""
    made = take(4)
    chain.key(COUNTS)
    chain.leave(COUNTS)
    assert chain.key(("quantizer/0", 1)) == release_key(made[2], "m0", ("quantizer/0", 1))
    with pytest.raises(LostResultError):
        chain.key(("quantizer/0", 0))  # it was missed, and is not drawn any more


def test_what_lies_on_the_disk_opens_no_noise_without_what_lies_elsewhere(chain, tmp_path):
    """A copy of the folder, with the positive control that the key beside it opens all that comes."""
    _, second, *_ = take(2)
    chain.leave(COUNTS)
    (path,) = (tmp_path / "chain").iterdir()
    assert second not in path.read_bytes()
    with pytest.raises(KeyFileError, match="opens under the privacy account and the identity alone"):
        LockedFiles(tmp_path / "chain", b"o" * 32).read(path.name)
    assert LockedFiles(tmp_path / "chain", b"k" * 32).read(path.name) == second
    path.rename(path.with_name("link-3.key"))
    with pytest.raises(KeyFileError):
        chain.key(EMBEDDING)  # a link stands for its own turn


def test_keys_of_a_link_are_for_one_place_of_one_market():
    keys = {release_key(b"l" * 32, market, (stage, None)) for market in ("a", "b") for stage in ("x", "y")}
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
    assert door.begin(plan.embedding()).key == release_key(next(made), "m0", EMBEDDING)


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
    assert stated_toss(plain, "m0", {}) == {}
