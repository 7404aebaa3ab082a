"""What each view of a market will have observed once a run is over, as its plan says."""

from __future__ import annotations

from dp_accounting.dp_event import ComposedDpEvent, DpEvent, NonPrivateDpEvent

from fedmm_secure.guarantee.own_stages import OWN_STAGES
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import CTR, DECRYPTED_VIEWS


def observed_by_view(plan: SpendingPlan) -> dict[str, DpEvent]:
    """By view, all that it observes, upstream stages included.

    Noise that follows from a seed of the configuration is none to whoever reads that: nothing bounds such a run.
    """
    raw: DpEvent = NonPrivateDpEvent()
    if not plan.stages or plan.config.privacy.noise_seed is not None:
        return dict.fromkeys(DECRYPTED_VIEWS, raw)
    market_own = (CTR, *OWN_STAGES)
    upstream = [plan.stage_event(name) for name in plan.stages if name not in market_own]
    if not plan.config.private_embedding:
        upstream.append(raw)
    models = [plan.stage_event(name) for name in plan.stages if name in market_own] or [raw]
    # distributed noise is whole in whatever colluders can open: masks hide every part of it
    federated, everything = ComposedDpEvent(upstream), ComposedDpEvent([*upstream, *models])
    return {"market": federated, "collusion": federated, "consumer": everything, "release": everything}
