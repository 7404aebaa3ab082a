"""What accountants answered, kept for the length of a test session and shared by its processes.

Tests plan the same few budgets hundreds of times, and an accountant's answer depends on nothing but its settings, on
what it was told to compose, and on δ. Kept are the libraries' answers alone, each by all of that; the product's own
code runs as it is.

What is asked for the first time costs less, too: losses of a mechanism are inverted in arrays, and a Rényi moment of
Opacus' is computed once. Neither changes an answer by a bit (``tests/privacy/accounting/test_cached_answers.py``). And
an ε that is stated is composed as coarsely as budgets are solved, a bound as well, ten times sooner; tests of the
accountants themselves have the fine one (``tests/privacy/accounting/conftest.py``).
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp as opacus_moments

from privacy.accounting.accountants import COARSE, pld_epsilon

FOLDER = "FEDMM_TEST_ANSWERS"  # in the environment, so that processes started by tests find it


class Answers:
    """Numbers by what they depend on, in memory and in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, question: object, compute: Callable[[], float], *, shared: bool = True) -> float:
        """The answer; one that is not ``shared`` stays in this process: a curve of hundreds is no file each."""
        key = hashlib.sha256(repr(question).encode()).hexdigest()
        if key not in self._known and not shared:
            self._known[key] = compute()
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
    opacus_moments._compute_rdp = cache(opacus_moments._compute_rdp)
    GaussianPrivacyLoss.get_delta_for_epsilon = deltas_at_once
    pld_epsilon.__kwdefaults__["interval"] = COARSE


library_deltas = GaussianPrivacyLoss.get_delta_for_epsilon


def deltas_at_once(loss: GaussianPrivacyLoss, epsilon: Any) -> Any:
    """The library's own, whose loop over each ε in Python is most of what a composition costs."""
    if np.ndim(epsilon) == 0 or loss.adjacency_type == AdjacencyType.REPLACE:
        return library_deltas(loss, epsilon)
    epsilons, rate, add = np.asarray(epsilon, dtype=float), loss.sampling_prob, loss.adjacency_type == AdjacencyType.ADD
    inside, unsampled = np.full_like(epsilons, True, dtype=bool), epsilons
    deltas = np.zeros_like(epsilons) if add else -np.expm1(epsilons)
    if rate < 1.0:
        sign, edge = (-1.0, -np.log1p(-rate)) if add else (1.0, np.log1p(-rate))
        inside = epsilons < edge if add else epsilons > edge
        inner = epsilons[inside]
        with np.errstate(divide="ignore", invalid="ignore"):  # at the edge, which is put right below
            scaled = sign * inner + np.log(1 / rate)
            unsampled = sign * (scaled + np.log1p(-np.exp(np.log(1 / rate - 1) - scaled)))
        unsampled[inner == 0] = sign * np.log(1 / rate + (1 - 1 / rate))
        unsampled[np.isclose(inner, edge, rtol=1e-9, atol=0.0)] = -sign * np.inf
    cut = -0.5 * loss.sensitivity - unsampled * loss._standard_deviation**2 / loss.sensitivity
    if add:
        cut = loss.sensitivity + cut
    deltas[inside] = loss.mu_upper_cdf(cut) - np.exp(epsilons[inside] + loss.mu_lower_log_cdf(cut))
    return np.clip(deltas, 0, 1)


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

    def get_delta(self: Any, target_epsilon: float) -> float:
        question = accountant.__name__, "delta", self.settings, self.told, target_epsilon
        return answers.get(question, lambda: composed_first("get_delta")(self, target_epsilon), shared=False)

    accountant.__init__, accountant.compose = keep_settings, compose_later
    for name in asked:
        setattr(accountant, name, composed_first(name))
    accountant.get_epsilon, accountant.get_delta = get_epsilon, get_delta
