"""A sweep of thousands of cells on one market: the note of earlier runs grew with each, until no ledger could be read.

It was written, and the run went on to spend: neither it nor anybody else could read what it had entered.
"""

from unittest import mock

import pytest
from dp_accounting.dp_event import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

from fedmm_secure.federation import account
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy import foreign
from privacy.accounting import ledger as ledgers
from privacy.accounting.events import OneNoiseDpEvent, gaussian_steps, repetitions
from privacy.accounting.guarantees import guarantee_with_earlier_runs
from privacy.accounting.ledger import Ledger, LedgerError, read_ledger
from privacy.accounting.spendings import Spending

STEP = PoissonSampledDpEvent(0.1, GaussianDpEvent(4.0))
RUN = ComposedDpEvent([GaussianDpEvent(9.0), SelfComposedDpEvent(STEP, 3), OneNoiseDpEvent(GaussianDpEvent(9.0), 2)])
ROOM = 5_000  # bytes that a line may have here


def noted(path, runs):
    """A ledger with a note of so many earlier runs; and its ε with them."""
    ledger = Ledger(path)
    ledger.open({"run": "r", "market": "m"})
    release = account._note([Spending(f"{run:032x}", dict.fromkeys(DECRYPTED_VIEWS, RUN)) for run in range(runs)])
    ledger.note(release.entry("m", delta=1e-5, seeded=False))
    return guarantee_with_earlier_runs(read_ledger(path).entries, "release").epsilon


def each_by_itself(events):
    return ComposedDpEvent(list(events))


def test_a_note_is_as_long_as_there_are_distinct_mechanisms(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "MAX_LINE_BYTES", ROOM)
    many = noted(tmp_path / "many", 200)
    with mock.patch.object(account, "repetitions", each_by_itself):
        with pytest.raises(LedgerError, match="a line of"):  # the attack: written, and never read again
            noted(tmp_path / "as it was", 200)
        monkeypatch.undo()
        assert many == noted(tmp_path / "with room", 200)


def test_a_ledger_takes_no_line_that_nobody_could_read(tmp_path, monkeypatch):
    monkeypatch.setattr(account, "repetitions", each_by_itself)
    monkeypatch.setattr(ledgers, "MAX_LINE_BYTES", ROOM)
    with pytest.raises(LedgerError, match="cannot hold a line of"):
        noted(tmp_path / "ledger", 200)
    assert not read_ledger(tmp_path / "ledger").entries
    monkeypatch.setattr(ledgers, "MAX_LINES_BYTES", (tmp_path / "ledger").stat().st_size)
    with pytest.raises(LedgerError, match="cannot hold a line of"):
        Ledger(tmp_path / "ledger").close({})


@pytest.mark.parametrize("times", [1, 7])
def test_repetitions_are_the_same_mechanisms(times):
    found = repetitions([RUN] * times)
    assert gaussian_steps(found) == gaussian_steps(ComposedDpEvent([RUN] * times))
    assert [type(event).__name__ for event in found.events].count("OneNoiseDpEvent") == (times == 1)
    assert len(found.events) == 3
