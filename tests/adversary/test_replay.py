"""A market whose real coordinates carry other noise than it says: the noise meter cannot see it, and a replay does."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments.commands import audit
from experiments.compliance.build import build_document
from experiments.compliance.document import Declarations
from experiments.presentation.console import PlainConsole
from experiments.reports.run import run_page
from experiments.reports.screen import Finished, screen
from experiments.verification import closing
from experiments.verification import replay as replays
from experiments.verification.replay import Replay
from experiments.verification.run import Examination, examine_run
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.release_keys import ReleaseKeys
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.storage.run_directory import read_config, read_metrics
from privacy.accounting.fingerprints import RunKey
from privacy.aggregation.identities import Identity
from privacy.mechanisms.randomness import NoiseSource
from tests.command_line import fedmm
from tests.released import made_once
from tests.replayed import gone_on, opened, replayable, tossed


class HalfTheNoise(NoiseSource):
    """Draws what it should, shows the spare coordinates as they are, and leaves half of the others out."""

    def derive(self, *purpose):
        found = super().derive(*purpose)
        return HalfTheNoise(found._key, seeded=found.seeded)

    def gaussian_with_spare(self, count, spare, *, levels=2):
        values, left = super().gaussian_with_spare(count, spare, levels=levels)
        return values // 2, left


def dishonest(market, stage, round=None):
    """The source of one release of one market, halved."""
    honest = Transaction.source.fget

    def source(transaction):
        entry, found = transaction.charge.entry, honest(transaction)
        if (entry.market, entry.stage, entry.round) == (market, stage, round):
            return HalfTheNoise(transaction.key, seeded=False)
        return found

    return property(source)


def own_key(market, stage):
    """A market that draws one release from a key that it chose after the coins were tossed."""
    honest = ReleaseKeys.make

    def make(keys, release, ledger):
        if (keys._market, release.stage) != (market, stage):
            return honest(keys, release, ledger)
        chosen = ReleaseKeys(market, keys._directory)
        return honest(chosen, release, ledger)

    return make


def identities(folder):
    if not (folder / "auditor").exists():
        Identity.generate("auditor").save(folder / "auditor")
    return Identity.load(folder / "auditor")


def honestly(folder):
    auditor = identities(folder)
    settings = replayable(auditor)
    opened(settings, folder / "opened")
    shutil.copytree(folder / "opened", folder / "run")
    tossed(folder / "run", auditor)
    gone_on(settings, folder / "run")


def dishonestly(folder):
    auditor = identities(folder)
    settings = replayable(auditor)
    opened(settings, folder / "run")
    tossed(folder / "run", auditor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "source", dishonest("m0", "counts"))
        patch.setattr(Transaction, "source", dishonest("m1", "quantizer/0", 1))
        patch.setattr(ReleaseKeys, "make", own_key("m2", "ctr/0"))
        gone_on(settings, folder / "run")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return made_once(tmp_path_factory, "replayed", honestly)


@pytest.fixture(scope="module")
def cheating(tmp_path_factory):
    return made_once(tmp_path_factory, "cheating", dishonestly)


@pytest.fixture(scope="module")
def found(cheating):
    """What a replay finds."""
    return examine_run(cheating / "run", replay=Replay(identities(cheating)))


def of(examined, market):
    return [finding.what for finding in examined.checks["replay"] if f"{market}.jsonl" in finding.where]


def test_an_honest_run_comes_out_as_it_was(honest):
    examined = examine_run(honest / "run", replay=Replay(identities(honest)))
    assert examined.findings == []
    measured = [note for note in examined.notes if note.startswith("canaries: ")]
    assert len(measured) == 3 * len(("counts", "embedding", "quantizer/0", "ctr/0"))
    # counts, factors, 2 rounds with noise and a warm-up, model, item codes, user codes, CTR, test figures
    assert [note for note in examined.notes if "drawn again" in note] == [
        f"replay: {market}: 10 releases drawn again and compared" for market in ("m0", "m1", "m2")
    ]


def test_without_a_replay_none_of_it_is_seen(found):
    """The positive control: all other checks, the noise meter among them, are green."""
    assert {name: findings for name, findings in found.checks.items() if findings and name != "replay"} == {}


def test_canaries_in_spare_coordinates_do_not_see_it_either(found):
    """The market knows which coordinates are theirs: what it leaves out of its users' own, only a replay finds."""
    (note,) = (note for note in found.notes if note.startswith("canaries: m0, counts"))
    noise = float(note.split("noise ")[1].split()[0])
    assert 0.9 < noise < 1.1


def test_half_the_noise_on_real_counts_is_found_where_it_was_drawn(found):
    assert of(found, "m0") == ["replay: counts: comes out otherwise"]


def test_half_the_noise_of_one_round_is_found_from_that_round_on(found):
    first, *others = of(found, "m1")
    assert first == "replay: quantizer/0, round 1: the update comes out otherwise"
    assert all("quantizer" in other or "item-codes" in other for other in others)  # models build upon it
    sums = [finding.what for finding in found.checks["replay"] if "sum of what all markets send" in finding.what]
    assert sums[0] == "replay: quantizer/0, round 1: the sum of what all markets send comes out otherwise"


def test_a_key_of_ones_own_is_found_without_a_row(found):
    assert of(found, "m2")[0] == "replay: ctr/0: is charged with another key than both coins make"
    assert "replay: ctr/0: comes out otherwise" in of(found, "m2")


def test_of_what_a_market_does_not_show_the_sums_are_compared_all_the_same(cheating, tmp_path):
    """Without its own record nobody computes a market's message again; what all of them send has to add up."""
    run = shutil.copytree(cheating / "run", tmp_path / "run")
    shutil.rmtree(run / "private")
    examined = examine_run(run, replay=Replay(identities(cheating)))
    whats = [finding.what for finding in examined.checks["replay"]]
    assert "replay: quantizer/0, round 1: the sum of what all markets send comes out otherwise" in whats
    assert "replay: m0: quantizer/0: compared in sums over all markets alone" in examined.notes
    assert any("m0: user-codes/0: not compared but for spare" in text for text in examined.unchecked)


def test_what_is_compared_with_nothing_is_no_release_that_was_compared(cheating, tmp_path):
    """One market alone, without its own record: half of a round's noise is missing, and no check can see it. As it was,
    its updates counted as compared, and a reader was told in a note alone.
    """
    run = shutil.copytree(cheating / "run", tmp_path / "run")
    shutil.rmtree(run / "private")
    for market in ("m0", "m2"):
        (run / "ledger" / f"{market}.jsonl").unlink()
    examined = examine_run(run, replay=Replay(identities(cheating)))
    assert not any("update comes out otherwise" in finding.what for finding in examined.checks["replay"])
    assert any("m1: quantizer/0, user-codes/0: not compared but for" in text for text in examined.unchecked)
    # of ten, two rounds with noise, a warm-up and user codes
    assert "replay: m1: 6 releases drawn again and compared" in examined.notes


def test_other_rows_are_not_those_that_the_run_was_opened_on(honest, tmp_path, monkeypatch):
    """Who brings rows that fit the noise it left out must have bound itself to them before it knew any noise."""
    real = replays.prepare_one

    def without_the_last(data, name):
        found = real(data, name)
        if name != "m1":
            return found
        market = found.whole.market
        turned = replace(market, rating=np.where(np.arange(len(market.rating)) == 0, 1.0, market.rating))
        return replace(found, whole=replace(found.whole, market=turned))

    monkeypatch.setattr(replays, "prepare_one", without_the_last)
    monkeypatch.setattr(replays._Course, "run", lambda self: [])
    examined = examine_run(honest / "run", replay=Replay(identities(honest)))
    assert of(examined, "m1") == ["replay: the rows are not those that it was opened on"]


def test_a_market_that_looks_like_another_one_to_the_book_is_found(honest, monkeypatch):
    """It sealed a fingerprint that is not of its rows, or one card asked for the coin and another signed the run."""
    somebody = Identity.generate("m1").card
    monkeypatch.setattr(replays._Course, "run", lambda self: [])
    monkeypatch.setattr(replays, "readers_fingerprint", lambda key, prepared, reader: "0" * 64)
    monkeypatch.setattr(closing, "asked_by", lambda opening: somebody if opening["market"] == "m1" else None)
    examined = examine_run(honest / "run", replay=Replay(identities(honest)))
    said = (
        "replay: the fingerprint that it sealed for you is not that of its rows, so that your book took them for others"
    )
    assert [of(examined, market) for market in ("m0", "m1", "m2")] == [[said]] * 3
    (signed,) = examined.checks["closing line"]
    assert "m1.jsonl" in signed.where
    assert f"asked for by m1 {somebody.fingerprint}: one card has to sign for both" in signed.what


def test_a_key_of_another_run_or_reader_compares_no_rows(honest, monkeypatch):
    monkeypatch.setattr(replays._Course, "run", lambda self: [])
    key = RunKey.of(b"k" * 32, "another", identities(honest).card.fingerprint)
    examined = examine_run(honest / "run", replay=Replay(identities(honest), run_key=key))
    assert of(examined, "m0") == [f"replay: the key of --run-key is for run another and reader {key.reader}"]


def test_what_is_sealed_and_never_drawn_again_is_named(honest, monkeypatch):
    monkeypatch.setattr(replays, "publish_user_codes", lambda *_: None)
    examined = examine_run(honest / "run", replay=Replay(identities(honest)))
    wanted = "replay: user-codes/0: is sealed, and nothing that is drawn again stands for it"
    assert [of(examined, market) for market in ("m0", "m1", "m2")] == [[wanted]] * 3


def test_another_auditor_replays_nothing(honest):
    with pytest.raises(ConfigError, match="its auditor is auditor"):
        examine_run(honest / "run", replay=Replay(Identity.generate("auditor")))


def test_whose_noise_is_known_to_an_auditor_says_so_on_the_first_screen(honest):
    card, run = identities(honest).card, honest / "run"
    shown = PlainConsole(width=200)
    finished = Finished(run, read_config(run), read_metrics(run), Examination({}))
    with shown.capture() as text:
        shown.print(screen(finished))
    assert f"no bound against auditor, {card.fingerprint}" in text.get()


def test_nothing_is_left_of_the_noise_but_the_coin_that_the_auditor_opens(honest):
    left = [path.name for path in (honest / "run" / "state").rglob("*.key")]
    assert left == ["federation.key"] * 3


def test_the_commands_of_a_toss_and_of_a_replay(honest, tmp_path, capsys):
    keys, run = honest / "auditor", tmp_path / "run"
    shutil.copytree(honest / "opened", run)
    status, out, _ = fedmm(capsys, "keys", "coins", run, "--keys", keys, "--out", tmp_path / "coins.json")
    assert (status, out.count("first line")) == (0, 3)
    status, _, err = fedmm(capsys, "run", "--coins", tmp_path / "coins.json", "--out", tmp_path / "new")
    assert (status, "--coins goes with --resume" in err) == (2, True)
    status, _, err = fedmm(capsys, "run", "--resume", "--out", run, "--quiet")
    assert (status, "awaits coins for m0, m1, m2" in err) == (1, True)
    status, _, err = fedmm(capsys, "verify", run, "--data", tmp_path)
    assert (status, "go with --replay" in err) == (2, True)


def test_a_replay_that_finds_something_exits_with_1(cheating, capsys, monkeypatch):
    monkeypatch.setattr(replays._Course, "run", lambda self: [])  # of keys alone
    status, _, err = fedmm(capsys, "verify", cheating / "run", "--replay", cheating / "auditor")
    assert status == 1
    assert "m2.jsonl" in err
    assert "another key than both coins make" in err


def test_what_canaries_showed_is_there_for_machines_and_auditors(honest, capsys):
    examined = examine_run(honest / "run")
    data = examined.to_data()["canaries"]["m1"]
    assert [one["stage"] for one in data] == ["counts", "embedding", "quantizer/0", "ctr/0"]
    assert all(one["weight"][1] < 1.2 and one["result"]["canaries"] > 10 for one in data)
    audit._print_measured("m1", examined.measured["m1"])
    assert capsys.readouterr().out.count("[") == 2 * len(data)


def test_what_canaries_showed_stands_on_the_page_and_in_the_compliance_report(honest, tmp_path):
    run, examined = honest / "run", examine_run(honest / "run")
    shown = run_page(run, "run", examined)
    declared = Declarations(signer=None, trusted=[], sole_run=True, max_epsilon=10.0, max_delta=None)
    document = build_document(run, declared, account=tmp_path / "none")
    for market, stages in examined.measured.items():
        assert f"Canaries in the run itself, {market}" in shown
        stated = document.markets[market].canaries
        assert [one.stage for one in stated] == ["counts", "embedding", "quantizer/0", "ctr/0"]
        for one, measured in zip(stated, stages, strict=True):
            assert one.verdict == "as stated"
            assert f"{one.weight.value:.3f} [{one.weight.low:.3f}, {one.weight.high:.3f}]" in shown
            assert one.noise.low < measured.noise[0] < one.noise.high
            assert set(one.lower_bounds) == {"f-DP", "Steinke et al."}
    said = [
        question.answer
        for question in document.questions
        if "Canaries in 12 stages of the run itself" in question.answer
    ]
    assert said
    assert "all as stated" in said[0]
