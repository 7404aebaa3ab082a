"""What a market says of a refusal: to the server fixed words, to its operator's log all that is known.

A text that depended on rows would be an answer that no budget pays for. So a server hears the text of an error where
it comes from its own request alone.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping

from fedmm_secure.federation.budget import BudgetExceededError
from fedmm_secure.federation.coins import CoinsAwaitedError
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.orders import OrderError, RunEndedError
from fedmm_secure.federation.requests import RequestError
from fedmm_secure.pipeline import Listener
from privacy.aggregation.keys import KeyBurnedError, KeyExhaustedError

_FIXED: Mapping[type[Exception], str] = {
    BudgetExceededError: "its privacy budget is spent",
    KeyExhaustedError: "its key must be rotated",
    CoinsAwaitedError: "is open, and awaits the coin of its auditor",  # known of every run of its configuration
    KeyBurnedError: str(RunEndedError()),  # a crash between the key and the mark of the run: nobody can tell
}
_IN_FULL = 20  # refusals of one kind that are logged with all that is known of them


class ConsentError(Exception):
    """The market's operator has not agreed to another run."""


_ITS_OWN = (OrderError, MessageError, RunEndedError, ConsentError, RequestError)


def told(error: Exception) -> str:
    """What the server hears of an error."""
    if isinstance(error, _ITS_OWN):
        return str(error)
    return _FIXED.get(type(error), "failed; its operator's log says why")


class Journal:
    """The operator's log of what a server can bring about as often as it likes; it stays small.

    Args:
        log: told of (event, fields).
    """

    def __init__(self, log: Listener) -> None:
        self._log, self._seen = log, Counter[str]()

    def refused(self, error: Exception) -> None:
        """A request was refused."""
        kind = type(error).__name__

        def fields() -> dict[str, object]:
            text = "".join(traceback.format_exception(error))
            return {"kind": kind, "error": repr(error)[:500], "traceback": text[-2000:]}

        self.often(kind, _IN_FULL, "refused", fields)

    def often(self, kind: str, in_full: int, event: str, fields: Callable[[], Mapping[str, object]]) -> None:
        """The first ``in_full`` of each kind with all fields, then how many there were, at each doubling."""
        self._seen[kind] += 1
        count = self._seen[kind]
        if count <= in_full:
            self._log(event, fields())
        elif count & (count - 1) == 0:
            self._log(event, {"kind": kind, "count": count})
