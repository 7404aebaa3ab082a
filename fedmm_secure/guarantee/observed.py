"""What each view of a market will have observed once a run is over, as its plan says."""

from __future__ import annotations

from dp_accounting.dp_event import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NonPrivateDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)

from fedmm_secure.guarantee.own_stages import OWN_STAGES
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import CTR, DECRYPTED_VIEWS, SERVER_VIEW
from privacy.accounting.events import OneNoiseDpEvent

_MOST_STAGES = 32  # of one run


def observed_by_view(plan: SpendingPlan) -> dict[str, DpEvent]:
    """By view, all that it observes, upstream stages included; the server's is what it reads in the clear.

    Noise that follows from a seed of the configuration is none to whoever reads that: nothing bounds such a run.
    """
    raw: DpEvent = NonPrivateDpEvent()
    reads = plan.config.aggregation.traits.server_reads_updates
    if not plan.stages or plan.config.privacy.noise_seed is not None:
        return {SERVER_VIEW: raw if reads else ComposedDpEvent([]), **dict.fromkeys(DECRYPTED_VIEWS, raw)}
    market_own = (CTR, *OWN_STAGES)
    upstream = [plan.stage_event(name) for name in plan.stages if name not in market_own]
    if not plan.config.private_embedding:
        upstream.append(raw)
    models = [plan.stage_event(name) for name in plan.stages if name in market_own] or [raw]
    # distributed noise is whole in whatever colluders can open: masks hide every part of it
    federated, everything = ComposedDpEvent(upstream), ComposedDpEvent([*upstream, *models])
    server = {SERVER_VIEW: federated if reads else ComposedDpEvent([])}
    return {**server, "market": federated, "collusion": federated, "consumer": everything, "release": everything}


def is_of_runs(event: DpEvent, most: int) -> bool:
    """Whether an event is what so many runs at most make a view observe, in a form that earlier versions noted of them.

    That is a list of mechanisms, or one of runs that are such lists. Compositions of another form
    come to the same, to nothing even, in ways without number: they would have room for a message.
    """
    if not isinstance(event, ComposedDpEvent):
        return False
    runs = [part for part in event.events if isinstance(part, ComposedDpEvent)]
    stages = [part for part in event.events if not isinstance(part, ComposedDpEvent)]
    stages += [stage for run in runs for stage in run.events]
    return len(runs) <= most and len(stages) <= most * _MOST_STAGES and all(map(_is_of_a_stage, stages))


def _is_of_a_stage(event: DpEvent) -> bool:
    if isinstance(event, SelfComposedDpEvent) and isinstance(event.event, OneNoiseDpEvent | NonPrivateDpEvent):
        event = event.event  # in several runs
    for wrapped in (OneNoiseDpEvent, SelfComposedDpEvent, PoissonSampledDpEvent):
        event = event.event if isinstance(event, wrapped) else event
    return isinstance(event, GaussianDpEvent | NonPrivateDpEvent)
