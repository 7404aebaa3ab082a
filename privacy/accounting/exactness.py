"""What it costs that noise is discrete: from the continuous Gaussian that accountants know to the integers drawn.

Accountants compose the *continuous* Gaussian mechanism, on Poisson samples. What is drawn is discrete Gaussian noise
on integer vectors, by a sampler that is not exact to the last bit. One-dimensional privacy loss distributions of
discrete noise prove nothing in d dimensions: it is not rotation invariant. Three steps lead from one to the other.

**1. Rounded noise costs nothing.** For an integer ``q``, ``q + round(g) = round(q + g)`` with ``g ~ N(0, S² I)``:
post-processing of the Gaussian mechanism, in any dimension. So is a step on a Poisson sample, and an adaptive
composition of steps. Whatever ε(δ) holds for the continuous run holds for the one with rounded noise, R.

**2. Rounded and discrete noise are nearly the same, point by point.** Let ``D`` be the discrete Gaussian law of scale S
and ``φ`` the normal density. With ``t`` uniform on [-1/2, 1/2]::

    R(k) = φ(k) E[exp(-kt/S² - t²/2S²)] = φ(k) E[cosh(kt/S²) exp(-t²/2S²)]        D(k) = φ(k) / (1 + r)

and ``0 < r <= 3 exp(-2π²S²)`` by Poisson summation of D's normaliser. From above, the expectation is at most
``E[cosh(kt/S²)] = sinh(a)/a`` with ``a = k/2S²``, and ``sinh(a)/a <= exp(a²/6)``. From below it is at least
``E[exp(-t²/2S²)] >= exp(-E[t²]/2S²) = exp(-1/24S²)`` by Jensen's inequality. For N coordinates, which may be those of
all steps of a run together::

    -‖u‖²/24S⁴ - N r  <=  log D(u)/R(u)  <=  N/24S²

The right side holds everywhere. The left one needs a bound on ``‖u‖``: under R, ``‖u‖ <= ‖g‖ + sqrt(N)/2``, and
``‖g‖ <= S (sqrt(N) + t)`` but for a probability ``τ <= exp(-t²/2)`` (Gaussian concentration: the norm is 1-Lipschitz).
Write ``a = N/24S²`` and ``b = (sqrt(N) (1 + 1/2S) + t)²/24S² + N r``. A run's output is a function of its noise ``u``
and of its Poisson coins, and only the law of ``u`` differs. So for any event E and any data x, whatever the mixture
over coins, ``P_D(E) <= e^a P_R(E)`` and ``P_R(E) <= e^b P_D(E) + τ``. For neighbours x, x'::

    P_D(E) <= e^a P_R(E) <= e^a (e^ε P'_R(E) + δ) <= e^(ε + a + b) P'_D(E) + e^a (δ + e^ε τ)

**3. The sampler.** With statistical distance at most η from D over all draws of a run, in whichever data,
``P <= P_D + η`` and ``P'_D <= P' + η``: δ grows by ``(1 + e^ε) η``.

Not covered: rounding within the accountants, whose inputs and convolutions are in double precision; that ChaCha20's
output passes for uniform bits (a computational assumption); and clipping, which mechanisms check in integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from privacy.mechanisms.discrete_gaussian import DISTANCE, scale

DEVIATIONS = 16.0  # t above: a tail of 2.6e-56
SHARE = 1e-3  # of δ that is set aside for steps 2 and 3


@dataclass(frozen=True)
class Slack:
    """What a run with discrete noise has beyond its continuous model; slacks of parts of a run add up.

    Attributes:
        epsilon: ``a + b``.
        distance: ``η``.
        tail: ``τ``.
    """

    epsilon: float = 0.0
    distance: float = 0.0
    tail: float = 0.0

    def __add__(self, other: Slack) -> Slack:
        return Slack(self.epsilon + other.epsilon, self.distance + other.distance, self.tail + other.tail)


def discretisation_slack(coordinates: int, steps: int, levels: int = 2) -> Slack:
    """Slack of ``steps`` draws of ``coordinates`` values each, by the sampler of ``levels``.

    A sum of several such draws, as in distributed noise, has a larger scale and so less slack.
    """
    found = slack_at(scale(levels), coordinates * steps)
    return Slack(found.epsilon, coordinates * steps * DISTANCE, found.tail)


def slack_at(scale: float, coordinates: int, deviations: float = DEVIATIONS) -> Slack:
    """Slack of exact discrete Gaussian noise of a scale, over all ``coordinates`` of a run together (step 2)."""
    if not coordinates:
        return Slack()
    remainder = 3.0 * math.exp(-2.0 * math.pi**2 * scale**2)
    above = coordinates / (24.0 * scale**2)
    length = math.sqrt(coordinates) * (1.0 + 0.5 / scale) + deviations
    below = length**2 / (24.0 * scale**2) + coordinates * remainder
    return Slack(above + below, 0.0, math.exp(-0.5 * deviations**2))


def epsilon_with_slack(epsilon_at: Callable[[float], float], delta: float, slack: Slack) -> float:
    """ε at ``delta`` of a run as it is drawn.

    Args:
        epsilon_at: ε at a δ of the continuous model of the run, e.g. by privacy loss distributions.
        delta: of the result; a thousandth is set aside, and the continuous ε is taken at the rest over ``e^a``.
        slack: of all draws of the run.

    Returns:
        The continuous ε and the slack's; ``inf`` where the thousandth does not cover tail and sampler.
    """
    continuous = epsilon_at(delta * (1.0 - SHARE) * math.exp(-slack.epsilon))
    total = continuous + slack.epsilon
    if not total < 700.0:  # e^ε leaves double precision
        return math.inf
    needed = math.exp(total) * slack.tail + (1.0 + math.exp(total)) * slack.distance
    return total if needed <= SHARE * delta else math.inf


def largest_epsilon(delta: float, slack: Slack) -> float:
    """The largest ε that ``epsilon_with_slack`` can state at ``delta``, whatever the noise; ``-inf`` for none."""
    room = SHARE * delta - slack.distance
    return min(700.0, math.log(room / (slack.tail + slack.distance))) if room > 0 else -math.inf
