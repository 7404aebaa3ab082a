"""Games against DP-SGD: canaries in the gradient, and canaries that are users.

The adversary sees every noised gradient (Nasr et al., USENIX Security 2023). A canary's gradient is known, so each step
gives a likelihood ratio between ``N(0, σ²)`` and the mixture that Poisson sampling makes of it, in units of the
clipping norm; the score of a canary is the sum over the steps. That reaches the trade-off curve that the ledger
claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.auditing.games import MakeNoise, Played, with_and_without
from fedmm_secure.config import Config
from fedmm_secure.ctr.bags import Bags
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.private import PrivateCTR, bag_loss
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from privacy.mechanisms.clipped_sums import AUTOMATIC_STABILITY
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer

STEEP = 1e3  # clipping norms of a canary's gradient before it is clipped
ENOUGH = 2  # values of the noise in the open, as in the pipeline; the adversary of these games has no use for them
LONG = 1e3  # length of a crafted embedding; that of others is 1
CODEBOOK = (5, 4)  # codes and dimensions of the audited model's global codebook
# latents of any length, so that a codebook's gradient can be as steep as any other
AUDITED = QuantizerShape(8, 8, CODEBOOK[1], global_codes=CODEBOOK[0], local_codes=3, normalise_latent=False)


class CanaryGradients:
    """Examples whose gradients are chosen: example ``i`` has a steep gradient in coordinate ``i`` alone.

    Coordinates get independent noise and examples are sampled independently, so one training run plays one game for
    each coordinate. ``sign`` turns round from one round to the next: noise that repeats itself then cancels.
    """

    def __init__(self, canaries: int, clipping_norm: float) -> None:
        self.parameters: Sequence[nn.Parameter] = [nn.Parameter(torch.zeros(canaries))]
        self.sign = 1.0
        self._steep = STEEP * clipping_norm

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        index = batch[0]
        gradients = torch.zeros(len(index), len(self.parameters[0]))
        gradients[torch.arange(len(index)), index] = self.sign * self._steep
        self.parameters[0].grad_sample = gradients  # type: ignore[attr-defined]
        return torch.zeros(len(index))


def play_gradients(
    choices: DPSGD, rounds: int, steps: int, games: int, noise: MakeNoise, *, summed: bool = False
) -> Played:
    """Gradient canaries in one training run of the product's DP-SGD, twice as many as ``games``; a coin each says "in".

    Independent coins are what the bounds from one run rest on (Steinke, Nasr, Jagielski, NeurIPS 2023).
    ``summed`` scores a canary by the sum of its noised gradients instead of their likelihood ratios: about as good
    against Poisson samples and fresh noise, and better where either repeats itself.
    """
    canaries = 2 * games
    source = noise()
    member = source.derive("coins").coins(0.5, canaries)
    member[:2] = True, False  # no game without either
    gradients = CanaryGradients(canaries, choices.clipping_norm)
    parameter = gradients.parameters[0]
    trainer = DPSGDTrainer(gradients, torch.optim.SGD([parameter], lr=0.0), choices, canaries)
    batch = max(1, round(choices.sampling_rate * canaries))
    total = np.zeros(canaries)

    def observe() -> None:
        assert parameter.grad is not None
        seen = parameter.grad.double().numpy() * batch / choices.clipping_norm
        signal = gradients.sign * seen
        total[:] += signal if summed else step_ratio(signal, 1.0, choices)

    for index in range(rounds):
        trainer.steps(torch.from_numpy(np.flatnonzero(member)), steps, source.derive(index), observe, spare=ENOUGH)
        gradients.sign = -gradients.sign
    return Played(total[member], total[~member])


def play_user(
    choices: DPSGD, rounds: int, steps: int, games: int, noise: MakeNoise, *, codebook: bool = False
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

    def score(with_canary: bool) -> float:
        model = RQVAE(AUDITED, torch.Generator().manual_seed(0))
        private, source = PrivateSettings(choices, steps, spare=ENOUGH), noise()
        nobody = torch.zeros(0, AUDITED.input_dim)
        trainer = QuantizerTrainer(model, row[: int(with_canary)], nobody, settings, private)
        parts = [model.global_codebook.codewords] if codebook else list(model.parameters())
        watcher = Watcher(model, loss, choices, parts)
        for round in range(rounds):
            trainer.private_steps(steps, source.derive(round), after=watcher)
        return watcher.total

    return with_and_without(score, games)


def play_bag(choices: DPSGD, steps: int, games: int, noise: MakeNoise) -> Played:
    """A crafted user's bag in the training of the CTR model that is released."""
    schema = FeatureSchema(("item_global_code",), (3,), ("item_count",))
    config = Config.model_validate(_SMALLEST)
    bag = Bags(torch.zeros(1, 2, 1, dtype=torch.int64), torch.full((1, 2, 1), LONG), torch.ones(1, 2), torch.ones(1, 2))

    def loss(model: nn.Module) -> Tensor:
        return bag_loss(model, tuple(part[0] for part in bag.tensors()))

    def score(with_canary: bool) -> float:
        released = PrivateCTR("deepfm", schema, config, 0)
        watcher = Watcher(released.network, loss, choices, list(released.network.parameters()))
        mine = Bags(*(part[: int(with_canary)] for part in bag.tensors()))
        released.fit(mine, choices, steps, 1e-2, True, noise(), watcher, spare=ENOUGH)
        return watcher.total

    return with_and_without(score, games)


_SMALLEST = {
    "data": {"synthetic": {}},
    "ctr": {"model": "deepfm", "features": ["item_codes", "counts"], "dim": 2, "hidden": [4], "dropout": 0.0},
}


class Watcher:
    """Reads a model's noised gradients after each step and adds up likelihood ratios along the canary's gradient.

    Args:
        model: in training.
        loss: the canary's loss.
        choices: of DP-SGD, as claimed.
        parts: the parameters whose gradients are read.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[nn.Module], Tensor], choices: DPSGD, parts: Sequence[Tensor]
    ) -> None:
        self._parameters, self._parts, self._choices = list(model.parameters()), parts, choices
        self._model, self._loss = model, loss
        self.total = 0.0
        self._expected = self._clipped()

    def __call__(self) -> None:
        norm = self._choices.clipping_norm
        noised = _flat([value.grad for value in self._parts if value.grad is not None])
        length = float(self._expected.norm())
        along = float(noised @ self._expected) / max(length, 1e-12) / norm
        if len(self._parts) < len(self._parameters):
            self.total += along  # the length that it should have is not the one to look for
        else:
            self.total += float(step_ratio(np.array(along), length / norm, self._choices))
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


def step_ratio(observed: NDArray[np.float64], length: float, choices: DPSGD) -> NDArray[np.float64]:
    """Log-likelihood ratio of a noised gradient along the canary's, "in" over "out".

    Args:
        observed: in clipping norms; without the canary ``N(0, σ²)``, with it shifted by ``length`` when sampled.
        length: of the canary's clipped gradient, in clipping norms.
        choices: noise multiplier and sampling rate.
    """
    rate = choices.sampling_rate
    exponent = (observed * length - 0.5 * length**2) / choices.noise_multiplier**2
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log1p(-rate), np.log(rate) + exponent))
