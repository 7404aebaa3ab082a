"""stand-in"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Slack:
    epsilon: float
    distance: float
    tail: float


def discretisation_slack(coordinates: int, steps: int, levels: int = 2) -> Slack:
    S2 = 2.0**36
    k = coordinates / (7 * S2) + (2 * coordinates + 200 * steps) / (24 * S2)
    return Slack(2 * k, coordinates * 2.0**-109, steps * math.exp(-50))


def epsilon_with_slack(epsilon_at: Callable[[float], float], delta: float, slack: Slack) -> float:
    return epsilon_at(delta * (1 - 1e-3)) + slack.epsilon
