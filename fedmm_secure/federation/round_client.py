"""What every client does in the rounds of a stage: agree, compute once, send, take the sum, and keep its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm_secure.federation.door import Door
from fedmm_secure.federation.messages import Header, MessageError, unpack
from fedmm_secure.federation.orders import Order, OrderError, Place
from fedmm_secure.federation.transactions import Transaction
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release, again
from fedmm_secure.storage.files import torch_bytes
from privacy.aggregation.base import IntVector
from privacy.files import write_atomic
from privacy.mechanisms.dp_sgd import StepStatistics


class RoundClient(ABC):
    """One market's part in the rounds of one stage; the same code under every engine.

    The state is kept in ``state_file`` at each step, so that a killed run goes on from the noised state it had instead
    of drawing noise again.

    Args:
        market: its name.
        stage: stage name in ledger and transcript.
        spending: what its releases spend.
        door: the market's way out.
        state_file: where its state is kept.
    """

    def __init__(self, market: str, stage: str, spending: SpendingPlan, door: Door, state_file: Path) -> None:
        self.market, self.stage, self.spending, self.door = market, stage, spending, door
        self._state_file = state_file
        self.next_round = 0
        self.last: StepStatistics | None = None
        self._pending: dict[str, Any] | None = None
        self._stale = False

    # -- what a kind of client fills in ------------------------------------------------------------------------------

    @abstractmethod
    def _computed(self, round: int, paid: Transaction) -> tuple[IntVector, IntVector | None]:
        """A round's update ``(length,)`` from the randomness that was charged for it, and spare values of its noise."""

    @abstractmethod
    def _move(self, header: Header, total: IntVector) -> None:
        """Go on with the cohort's sum ``(length,)``."""

    @abstractmethod
    def _kept(self) -> dict[str, Any]:
        """What a resumed run needs beside the update in hand: tensors, numbers, texts."""

    @abstractmethod
    def _take_up(self, kept: Mapping[str, Any]) -> None:
        """Go on from what ``_kept`` gave."""

    # -- rounds --------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """The round that this market is in."""
        return self.stage, self.next_round

    def state(self, order: Order) -> bytes:
        """This market's signed statement that it takes part in an attempt of a round.

        Raises:
            OrderError: see ``Agreement.state``.
        """
        return self.door.agreement.state(order)

    def agree(self, order: Order, statements: Mapping[str, bytes]) -> None:
        """See that all markets of a cohort have stated the same as this one; only then it reads a row.

        Raises:
            OrderError, MessageError: see ``Agreement.agree``.
        """
        self.door.agreement.agree(order, statements)

    def local_update(self, order: Order, send: Callable[[bytes], None]) -> None:
        """Compute a round's update, from where the round began, and release it.

        A later attempt of the same round sends the same update for a smaller cohort; an order that was carried
        out before is answered with the same bytes. An order that fails leaves everything as it was, but for the charge.

        Raises:
            OrderError: its cohort has not agreed on it, or it is of another round than this market is in.
            BudgetExceededError: the ledger does not allow it; nothing was computed.
        """
        self._restore()
        self.door.ready(order)
        if order.place != self.place:
            raise OrderError(f"market {self.market}: {order.stage}, round {order.round} is not where it is")
        first = self.door.charged(order.stage, order.round)
        release = self.spending.of_round(order.stage, order.round, order.attempt)
        if first is None:
            first = self.door.begin(release)
        elif first.charge.entry.attempt != order.attempt:
            release = again(release, order.attempt)
        self._stale = True  # what private rows moved must not stay if anything fails: the disk is the truth then
        try:
            if self._pending is None:
                values, meter = self._computed(order.round, first)
                self._pending = {
                    "round": order.round,
                    "charge": first.charge.sequence,
                    "values": torch.from_numpy(values),
                    "meter": None if meter is None else torch.from_numpy(meter),
                    "attempt": None,
                    "cohort": [],
                }
            self._send(order, release, first, send)
        except BaseException:
            self._restore()  # or, where that fails too, before anything else happens
            raise
        self._stale = False

    def _send(self, order: Order, release: Release, first: Transaction, send: Callable[[bytes], None]) -> None:
        pending = self._pending
        assert pending is not None
        values = pending["values"].numpy()
        meter = None if pending["meter"] is None else pending["meter"].numpy()
        transaction, of_first = first, first.charge.entry.attempt == order.attempt
        if not of_first:
            if first.digest is None:  # its attempt was given up before anything was sent
                self._keep(pending)
                self.door.withhold(first, values, meter)
            transaction = self.door.begin(release)
        if pending["attempt"] != order.attempt:
            message = self.door.protect(release, values, order.cohort)
            pending = {**pending, "attempt": order.attempt, "cohort": list(order.cohort), "message": message}
            self._keep(pending)
        self.door.send(transaction, values, pending["message"], send, meter if of_first else None)

    def take(self, message: bytes, statements: Mapping[str, bytes] | None = None) -> None:
        """Keep the aggregate of this round, unopened; ``statements`` of its cohort where this market was not in it.

        Raises:
            MessageError: see ``Agreement.take``, or it counts an update that this market did not send.
        """
        self._restore()
        self._refuse_unsent(message)
        self.door.take(message, self.place, statements)

    def _refuse_unsent(self, message: bytes) -> None:
        header, _ = unpack(message)
        sent = None if self._pending is None else self._pending["attempt"]
        if self.market in header.cohort and sent != header.attempt:
            raise MessageError(f"market {self.market}: a sum over {header.cohort} counts an update it did not send")

    def settle(self) -> np.ndarray | None:
        """Open the aggregate that was taken, if one was, and go on with it; returns the integer sum.

        The door ends the run where the sum is not what the cohort sent.

        Raises:
            AggregationError: it is not.
        """
        self._restore()
        message = self.door.agreement.taken(self.place)
        if message is None:
            return None
        self._refuse_unsent(message)
        header, total = self.door.receive(self.place)
        self._stale = True
        self._move(header, total)
        self.next_round = header.round + 1
        self._pending = None
        self._save()
        self._stale = False
        return total

    def apply(self, message: bytes) -> np.ndarray | None:
        """``take`` and ``settle`` at once, where nobody waits for an answer between them."""
        self.take(message)
        return self.settle()

    # -- again, for an auditor -----------------------------------------------------------------------------------------

    def replay(self, paid: Transaction, header: Header, total: IntVector) -> tuple[IntVector, IntVector | None]:
        """Compute a round's update and its spare values again, send nothing, and go on with the sum that was taken."""
        found = self._computed(header.round, paid)
        self.follow(header, total)
        return found

    def follow(self, header: Header, total: IntVector) -> None:
        """Go on with the sum ``(length,)`` of a round that this market was not in."""
        self._move(header, total)
        self.next_round = header.round + 1

    # -- kept state ----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Keep the first state, or go on from the one that is there."""
        if not self._state_file.exists():
            self._save()
        self._load()

    def _keep(self, pending: dict[str, Any]) -> None:
        """The update in hand, and what it moved, beside the state that the round began with."""
        self._pending = pending
        write_atomic(self._pending_file, torch_bytes({**self._kept(), "pending": pending}))

    def _save(self) -> None:
        write_atomic(self._state_file, torch_bytes({**self._kept(), "next_round": self.next_round}))
        self._pending_file.unlink(missing_ok=True)  # of a round before, if it is still there

    @property
    def _pending_file(self) -> Path:
        return self._state_file.with_suffix(".pending.pt")

    def _in_hand(self) -> dict[str, Any] | None:
        """What ``_keep`` kept of the round that this market is in, if it was computed for a charge that stands."""
        if not self._pending_file.exists():
            return None
        kept: dict[str, Any] = torch.load(self._pending_file, weights_only=True)
        pending = kept["pending"]
        paid = self.door.charged(*self.place)
        ours = paid is not None and (pending["round"], pending["charge"]) == (self.next_round, paid.charge.sequence)
        return kept if ours else None

    def _restore(self) -> None:
        """After a failure, the state that was kept last; before anything else happens."""
        if self._stale:
            self._load()
            self._stale = False

    def _load(self) -> None:
        state = torch.load(self._state_file, weights_only=True)
        self.next_round = state["next_round"]
        kept = self._in_hand()
        self._pending = None if kept is None else kept["pending"]
        self._take_up(state if kept is None else kept)
