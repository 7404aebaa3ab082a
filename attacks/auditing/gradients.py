"""Games against DP-SGD: canaries in the gradient, and canaries that are users.

The adversary sees every noised gradient (Nasr et al., USENIX Security 2023). A canary's gradient is known, so each step
shows one value along it, in clipping norms: ``N(0, σ²)``, shifted where the canary was sampled. The score of a canary
is the sum of likelihood ratios over the steps. That reaches the trade-off curve that the ledger claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from attacks.auditing.laws import Law, Members, Values
from attacks.auditing.played import Played
from fedmm_secure.config import Config
from fedmm_secure.ctr.bags import Bags
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR, bag_loss
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from privacy.mechanisms.canary_gradients import CanaryGradients
from privacy.mechanisms.clipped_sums import AUTOMATIC_STABILITY
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer
from privacy.mechanisms.randomness import LEVELS, NoiseSource

SPARE = 2  # values of the noise in the open, as in the pipeline; the adversary of these games has no use for them
_SINGLE = 1e-4  # of a clipping norm: what single precision, and a stabilised norm, may do to a canary's gradient
LONG = 1e3  # length of a crafted embedding; that of others is 1
CODEBOOK_SHAPE = (5, 4)  # codes and dimensions of the audited model's global codebook
# latents of any length, so that a codebook's gradient can be as steep as any other
AUDITED = QuantizerShape(8, 8, CODEBOOK_SHAPE[1], global_codes=CODEBOOK_SHAPE[0], local_codes=3, normalise_latent=False)


def observed(
    member: Members, seen: Values, choices: DPSGD, *, length: float | Values = 1.0, parameters: int = 1
) -> Played:
    """Canaries who show values ``(n, steps)`` along their own gradients, in clipping norms.

    Args:
        member: whether each was in.
        seen: the values; signed, so that what a canary adds is positive.
        choices: of DP-SGD, as claimed.
        length: of the canary's clipped gradient in what is read; 1 where it is the whole clipping norm.
        parameters: that a gradient is read over.
    """
    steps = seen.shape[1]
    law = Law(choices.noise_multiplier, choices.sampling_rate, steps)
    normal = law.normal_scores(seen, member[:, None], length)
    total = normal.sum(axis=1) / math.sqrt(steps)
    ratios = law.ratio(seen, length).sum(axis=1)
    # noise and contribution are each within a grid unit of an entry; gradients within single precision
    slack = 2.0 * math.sqrt(parameters) / scale(LEVELS) + _SINGLE / choices.noise_multiplier
    whole = bool(np.all(np.abs(np.asarray(length) - 1.0) < _SINGLE))
    weight = law.weight_scores(ratios, slack) if whole else total - math.sqrt(steps) * slack
    score = ratios if whole else seen.sum(axis=1)  # a part has not the length to look for where it is not clipped
    return Played(member, score, weight, total, np.square(normal).sum(axis=1), steps, slack)


def play_gradients(choices: DPSGD, rounds: int, steps: int, member: Members, noise: NoiseSource) -> Played:
    """Gradient canaries in one training run of the product's DP-SGD.

    Independent coins are what the bounds from one run rest on (Steinke, Nasr, Jagielski, NeurIPS 2023).
    """
    canaries = len(member)
    gradients = CanaryGradients(canaries, choices.clipping_norm)
    parameter = gradients.parameters[0]
    trainer = DPSGDTrainer(gradients, torch.optim.SGD([parameter], lr=0.0), choices, canaries)
    unit = choices.expected_batch(canaries) / choices.clipping_norm
    seen: list[Values] = []

    def observe() -> None:
        assert parameter.grad is not None
        seen.append(gradients.sign * parameter.grad.double().numpy() * unit)

    for index in range(rounds):
        trainer.steps(torch.from_numpy(np.flatnonzero(member)), steps, noise.derive(index), observe, spare=SPARE)
        gradients.sign = -gradients.sign
    return observed(member, np.stack(seen, axis=1), choices)


def play_user(
    choices: DPSGD, rounds: int, steps: int, member: Members, noise: NoiseSource, *, codebook: bool = False
) -> Played:
    """A crafted user in the product's RQ-VAE training; the adversary reads all gradients, both codebooks' included.

    The user's embedding is far longer than a unit row, so that every part of the gradient presses against the clipping
    norm. The data hold nobody else. With ``codebook`` the gradient of the global codebook alone is read: clipped
    together with the others, it shows next to nothing.
    """
    row = torch.zeros(1, AUDITED.input_dim)
    row[0, 0] = LONG
    settings = TrainingSettings()

    def loss(model: nn.Module) -> Tensor:
        return torch.as_tensor(model(row).total(settings.weights).sum())

    def watch(present: bool, source: NoiseSource) -> Watcher:
        model = RQVAE(AUDITED, torch.Generator().manual_seed(0))
        private = PrivateSettings(choices, steps, spare=SPARE)
        nobody = torch.zeros(0, AUDITED.input_dim)
        trainer = QuantizerTrainer(model, row[: int(present)], nobody, settings, private)
        parts = [model.global_codebook.codewords] if codebook else list(model.parameters())
        watcher = Watcher(model, loss, choices, parts)
        for round in range(rounds):
            trainer.private_steps(steps, source.derive(round), after=watcher)
        return watcher

    return _watched(watch, choices, member, noise)


def play_bag(choices: DPSGD, steps: int, member: Members, noise: NoiseSource) -> Played:
    """A crafted user's bag in the training of the CTR model that is released."""
    schema = FeatureSchema(("item_global_code",), (3,), ("item_count",))
    config = Config.model_validate(_SMALLEST)
    bag = Bags(torch.zeros(1, 2, 1, dtype=torch.int64), torch.full((1, 2, 1), LONG), torch.ones(1, 2), torch.ones(1, 2))

    def loss(model: nn.Module) -> Tensor:
        return bag_loss(model, tuple(part[0] for part in bag.tensors()))

    def watch(present: bool, source: NoiseSource) -> Watcher:
        released = PrivateCTR("deepfm", schema, neural_choices(config.ctr), 0)
        watcher = Watcher(released.network, loss, choices, list(released.network.parameters()))
        mine = Bags(*(part[: int(present)] for part in bag.tensors()))
        released.fit(mine, choices, steps, 1e-2, True, source, watcher, spare=SPARE)
        return watcher

    return _watched(watch, choices, member, noise)


_SMALLEST = {
    "data": {"synthetic": {}},
    "ctr": {"model": "deepfm", "features": ["item_codes", "counts"], "dim": 2, "hidden": [4], "dropout": 0.0},
}


def _watched(
    watch: Callable[[bool, NoiseSource], Watcher], choices: DPSGD, member: Members, noise: NoiseSource
) -> Played:
    """One training run for each canary."""
    watchers = [watch(bool(present), noise.derive(index)) for index, present in enumerate(member)]
    seen, lengths = (np.array([getattr(each, name) for each in watchers]) for name in ("seen", "lengths"))
    return observed(member, seen, choices, length=lengths, parameters=watchers[0].parameters)


class Watcher:
    """Reads a model's noised gradients after each step, along the gradient that the canary would have had.

    That follows from earlier releases alone, so what is read has the law of one step, whatever came before.

    Args:
        model: in training.
        loss: the canary's loss.
        choices: of DP-SGD, as claimed.
        parts: the parameters whose gradients are read.

    Attributes:
        seen: a value for each step, in clipping norms.
        lengths: of the canary's clipped gradient in these parts, likewise.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[nn.Module], Tensor], choices: DPSGD, parts: Sequence[Tensor]
    ) -> None:
        self._parameters, self._parts, self._choices = list(model.parameters()), parts, choices
        self._model, self._loss = model, loss
        self.seen: list[float] = []
        self.lengths: list[float] = []
        self._expected = self._clipped()

    @property
    def parameters(self) -> int:
        """How many are read."""
        return len(self._expected)

    def __call__(self) -> None:
        """Read what the step's noised gradients say of the canaries."""
        norm = self._choices.clipping_norm
        noised = _flat([value.grad for value in self._parts if value.grad is not None])
        length = float(self._expected.norm())
        towards = self._expected / length if length > 0 else torch.full_like(noised, len(noised) ** -0.5)
        self.seen.append(float(noised @ towards) / norm)
        self.lengths.append(length / norm)
        self._expected = self._clipped()

    def _clipped(self) -> Tensor:
        """The canary's gradient in the parts that are read, clipped as DP-SGD says that it clips."""
        found = torch.autograd.grad(self._loss(self._model), self._parameters, materialize_grads=True)
        gradients = dict(zip(map(id, self._parameters), found, strict=True))
        norm, length = self._choices.clipping_norm, float(_flat(list(gradients.values())).norm())
        if self._choices.clipping == "automatic":
            factor = norm / (length + AUTOMATIC_STABILITY * norm)
        else:
            factor = min(1.0, norm / max(length, 1e-12))
        return factor * _flat([gradients[id(part)] for part in self._parts])


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts]).double()
