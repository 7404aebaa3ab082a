"""What accountants answered, kept for the length of a test session and shared by its processes.

Tests plan the same few budgets hundreds of times, and an accountant's answer depends on nothing but its settings, on
what it was told to compose, and on δ. Kept are the libraries' answers alone, each by all of that; the product's own
code runs as it is.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant

FOLDER = "FEDMM_TEST_ANSWERS"  # in the environment, so that processes started by tests find it


class Answers:
    """Numbers by what they depend on, in memory and in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, question: object, compute: Callable[[], float]) -> float:
        key = hashlib.sha256(repr(question).encode()).hexdigest()
        if key not in self._known:
            path = self._folder / key
            if not path.exists():
                part = self._folder / f"{key}.{os.getpid()}"
                part.write_text(float(compute()).hex())
                part.replace(path)  # whole or not at all
            self._known[key] = float.fromhex(path.read_text())
        return self._known[key]


def share_answers() -> None:
    """From now on all accountants of this process look into the session's folder before they compute."""
    answers = Answers(Path(os.environ[FOLDER]))
    _remember_composed(PLDAccountant, answers)
    _remember_composed(RdpAccountant, answers)
    compute = PRVAccountant.get_epsilon

    def get_epsilon(self: PRVAccountant, delta: float, **options: Any) -> float:
        question = "PRV", self.history, delta, sorted(options.items())
        return answers.get(question, lambda: compute(self, delta, **options))

    PRVAccountant.get_epsilon = get_epsilon


def _remember_composed(accountant: Any, answers: Answers) -> None:
    """Composes nothing until something is asked whose answer is not known."""
    initialise, compose = accountant.__init__, accountant.compose
    asked = {name: getattr(accountant, name) for name in dir(accountant) if name.startswith("get_")}

    def keep_settings(self: Any, *arguments: Any, **named: Any) -> None:
        initialise(self, *arguments, **named)
        self.settings, self.told, self.composed = (arguments, sorted(named.items())), [], 0

    def compose_later(self: Any, event: DpEvent, count: int = 1) -> Any:
        if not isinstance(event, DpEvent) or not self.supports(event):
            return compose(self, event, count)  # which says what is wrong
        self._ledger.compose(event, count)
        self.told.append((event, count))
        return self

    def composed_first(name: str) -> Callable[..., Any]:
        def ask(self: Any, *arguments: Any, **named: Any) -> Any:
            for event, count in self.told[self.composed :]:
                self._maybe_compose(event, count, True)
            self.composed = len(self.told)
            return asked[name](self, *arguments, **named)

        return ask

    def get_epsilon(self: Any, target_delta: float) -> float:
        question = accountant.__name__, self.settings, self.told, target_delta
        return answers.get(question, lambda: composed_first("get_epsilon")(self, target_delta))

    accountant.__init__, accountant.compose = keep_settings, compose_later
    for name in asked:
        setattr(accountant, name, composed_first(name))
    accountant.get_epsilon = get_epsilon
