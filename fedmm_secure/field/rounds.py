"""Rounds of a federated baseline: a pass over each market's examples, then a mean, weighted by examples.

A simulation for comparison: what would travel is serialised and counted, and nothing is private.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedmm_secure.ctr.dataset import ExampleSource
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.neural import NeuralModel, NeuralTraining
from fedmm_secure.ctr.trainer import Fit
from fedmm_secure.data.market import FloatArray
from fedmm_secure.field.methods import Method
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays

Dense = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Traffic:
    """Bytes of messages: up from all markets, down to all of them, in so many rounds."""

    bytes_up: int = 0
    bytes_down: int = 0
    rounds: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.bytes_up + other.bytes_up, self.bytes_down + other.bytes_down, self.rounds + other.rounds)


def network_of(fit: Fit) -> NeuralModel:
    """The model of a fit; raises ``TypeError`` where it is no network."""
    if not isinstance(fit.model, NeuralModel):
        raise TypeError(f"{type(fit.model).__name__} has no weights that could be averaged")
    return fit.model


class Participant:
    """One market in the rounds of a method.

    Args:
        fit: its network and its examples.
        source: examples that it trains on.
        method: what is shared.
        pull: weight of the distance to what the server sent.
    """

    def __init__(self, fit: Fit, source: ExampleSource, method: Method, pull: float) -> None:
        self.model, self._validation, self._method, self._pull = network_of(fit), fit.validation, method, pull
        self._sent = NeuralTraining(self.model, source)
        self._personal = NeuralTraining(self.model, source) if method.personal else None
        self.parts = method.shared(self._sent.network, self.model.schema)

    @property
    def n_examples(self) -> int:
        """Examples that it trains on: its weight in the mean."""
        return self._sent.n_examples

    @property
    def network(self) -> NeuralCTR:
        """What the market predicts with."""
        return (self._personal or self._sent).network

    def take(self, message: bytes) -> None:
        """The server's dense part in place of its own."""
        self._received = {name: torch.from_numpy(values) for name, values in read_arrays(message).items()}
        with torch.no_grad():
            for name, rows in self.parts.items():
                self._sent.network.get_parameter(name)[rows].copy_(self._received[name])

    def train(self) -> bytes:
        """A pass over the examples; returns what is sent to the server."""
        sent = self._sent.network
        if self._method.home:
            with only(sent, [name for name, _ in sent.named_parameters() if name not in self.parts]):
                self._sent.epoch()
            with only(sent, list(self.parts)):
                self._sent.epoch()
        else:
            self._sent.epoch(None if self._personal else self._penalty(sent))
        if self._personal is not None:
            self._personal.epoch(self._penalty(self._personal.network))
        return self.message()

    def message(self) -> bytes:
        """The dense part that is sent."""
        network = self._sent.network
        return arrays_bytes(
            {name: network.get_parameter(name).detach()[rows].numpy() for name, rows in self.parts.items()}
        )

    def auc(self) -> float:
        """Of the validation examples."""
        self.model.network_ = self.network
        return float(roc_auc_score(self._validation.label, self.model.predict(self._validation.features)))

    def _penalty(self, network: NeuralCTR) -> Callable[[], Tensor] | None:
        """Half the squared distance to what was received, times the pull."""
        if not self._pull:
            return None
        anchors = self._received

        def penalty() -> Tensor:
            found = [network.get_parameter(name)[rows] - anchors[name] for name, rows in self.parts.items()]
            return 0.5 * self._pull * torch.stack([part.square().sum() for part in found]).sum()

        return penalty


@contextmanager
def only(network: NeuralCTR, names: Sequence[str]) -> Iterator[None]:
    """Train some of a network's parameters and leave the others as they are."""
    others = [parameter for name, parameter in network.named_parameters() if name not in names]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def average_rounds(participants: Sequence[Participant], rounds: int, ended: Callable[[int], bool]) -> Traffic:
    """Train for so many rounds, or until ``ended``, asked after each, says so.

    The first participant's initial weights, which come from a public seed, are what all start from.
    """
    message = participants[0].message()
    weights = np.array([participant.n_examples for participant in participants], dtype=np.float64)
    weights /= weights.sum()
    up, down, done = 0, 0, 0
    for participant in participants:
        participant.take(message)
        down += len(message)
    for _ in range(rounds):
        updates = [participant.train() for participant in participants]
        up += sum(map(len, updates))
        message = arrays_bytes(weighted_mean([read_arrays(update) for update in updates], weights))
        for participant in participants:
            participant.take(message)
            down += len(message)
        done += 1
        if ended(done):
            break
    return Traffic(up, down, done)


def weighted_mean(updates: Sequence[Mapping[str, NDArray[np.float32]]], weights: FloatArray) -> Dense:
    """Weighted mean of the markets' dense parts."""
    return {
        name: np.sum(
            [weight * update[name].astype(np.float64) for weight, update in zip(weights, updates, strict=True)], axis=0
        ).astype(np.float32)
        for name in updates[0]
    }


@dataclass(frozen=True)
class FieldResult:
    """What rounds ended in.

    Attributes:
        validation_auc: mean over markets, at its best.
        rounds: that reached it.
        traffic: of those rounds, of the ones that told when to stop, and of the refit.
    """

    validation_auc: float
    rounds: int
    traffic: Traffic


def train(markets: Sequence[Fit], method: Method, pull: float, *, refit: bool = True) -> FieldResult:
    """Train the models of all markets; the mean validation AUC tells after how many rounds to stop.

    Then, with ``refit``, anew for as many rounds on training and validation rows, where markets have such examples.
    """
    members = [Participant(found, found.source, method, pull) for found in markets]
    choices = members[0].model.choices
    best, best_round, kept = -np.inf, 0, [member.network for member in members]

    def ended(done: int) -> bool:
        nonlocal best, best_round, kept
        auc = float(np.mean([member.auc() for member in members]))
        if auc > best:
            best, best_round, kept = auc, done, [copy.deepcopy(member.network) for member in members]
        return done - best_round >= choices.patience

    traffic = average_rounds(members, choices.max_epochs, ended)
    again = [(found, found.refit) for found in markets if found.refit is not None]
    if refit and len(again) == len(members):
        members = [Participant(found, source, method, pull) for found, source in again]
        traffic += average_rounds(members, best_round, lambda done: False)
        kept = [member.network for member in members]
    for member, network in zip(members, kept, strict=True):
        member.model.network_ = network
    return FieldResult(best, best_round, traffic)
