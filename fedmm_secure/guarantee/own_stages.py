"""All stages of a market's own, in the order of their releases."""

from __future__ import annotations

from collections.abc import Mapping

from fedmm_secure.guarantee.noisy_figures import NOISY_FIGURES
from fedmm_secure.guarantee.own_stage import OwnStage
from fedmm_secure.guarantee.randomised_codes import RANDOMISED_CODES

OWN_STAGES: Mapping[str, OwnStage] = {stage.name: stage for stage in (RANDOMISED_CODES, NOISY_FIGURES)}
