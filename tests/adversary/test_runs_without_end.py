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
from privacy.accounting.events import OneNoiseDpEvent
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
    earlier = [Spending(f"{run:032x}", dict.fromkeys(DECRYPTED_VIEWS, RUN)) for run in range(runs)]
    ledger.note(account._note(earlier, 1e-5).entry("m", delta=1e-5, seeded=False))
    return guarantee_with_earlier_runs(read_ledger(path).entries, "release").epsilon


def each_by_itself(costs):
    return ComposedDpEvent([RUN] * len(list(costs)))


def test_a_note_is_of_one_length(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "MAX_LINE_BYTES", ROOM)
    assert noted(tmp_path / "few", 2) < noted(tmp_path / "many", 200) < 400.0
    with mock.patch.object(account, "noted_event", each_by_itself), pytest.raises(LedgerError, match="a line of"):
        noted(tmp_path / "as it was", 200)  # the attack: written, and never read again


def test_a_ledger_takes_no_line_that_nobody_could_read(tmp_path, monkeypatch):
    monkeypatch.setattr(account, "noted_event", each_by_itself)
    monkeypatch.setattr(ledgers, "MAX_LINE_BYTES", ROOM)
    with pytest.raises(LedgerError, match="cannot hold a line of"):
        noted(tmp_path / "ledger", 200)
    assert not read_ledger(tmp_path / "ledger").entries
    monkeypatch.setattr(ledgers, "MAX_LINES_BYTES", (tmp_path / "ledger").stat().st_size)
    with pytest.raises(LedgerError, match="cannot hold a line of"):
        Ledger(tmp_path / "ledger").close({})
