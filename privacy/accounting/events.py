"""Privacy events as plain data: dp-accounting's events to JSON and back.

Only the kinds that a mechanism of this package emits are known; anything else is refused, so that a ledger
cannot smuggle in an event whose accounting is not tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent

# What accountants are asked: beyond it no run has use for an answer, and none comes in bounded time and memory.
_NOISE_MULTIPLIERS = (1e-2, 1e7)
_MOST_STEPS = 10**8


class UnknownEventError(ValueError):
    """An event kind that the ledger does not carry."""


@dataclass(frozen=True)
class OneNoiseDpEvent(DpEvent):  # type: ignore[misc]  # dp-accounting has no types
    """A mechanism whose noise is one for several markets: it is added to the sum of what they all contribute.

    To whoever has rows in one of them it is ``event``. Whoever has rows in k of them moves the one noise up to k times
    as far: ``privacy.accounting.groups``.

    Attributes:
        event: for a user of one market.
        markets: how many markets the noise is one for.
    """

    event: DpEvent
    markets: int


def event_to_data(event: DpEvent) -> dict[str, Any]:
    """JSON-ready form of an event."""
    match event:
        case dp_event.NonPrivateDpEvent():
            return {"kind": "non-private"}
        case dp_event.NoOpDpEvent():
            return {"kind": "no-op"}
        case dp_event.GaussianDpEvent():
            return {"kind": "gaussian", "noise_multiplier": event.noise_multiplier}
        case dp_event.RandomizedResponseDpEvent():
            return {"kind": "randomised-response", "noise": event.noise_parameter, "values": event.num_buckets}
        case dp_event.PoissonSampledDpEvent():
            return {
                "kind": "poisson-sampled",
                "sampling_rate": event.sampling_probability,
                "event": event_to_data(event.event),
            }
        case dp_event.SelfComposedDpEvent():
            return {"kind": "self-composed", "count": event.count, "event": event_to_data(event.event)}
        case dp_event.ComposedDpEvent():
            return {"kind": "composed", "events": [event_to_data(part) for part in event.events]}
        case OneNoiseDpEvent():
            return {"kind": "one-noise", "markets": event.markets, "event": event_to_data(event.event)}
    raise UnknownEventError(f"events of type {type(event).__name__} are not kept in a ledger")


def event_from_data(data: Mapping[str, Any]) -> DpEvent:
    """The event of its JSON form; raises ``UnknownEventError`` on anything malformed."""
    try:
        match data["kind"]:
            case "non-private":
                return dp_event.NonPrivateDpEvent()
            case "no-op":
                return dp_event.NoOpDpEvent()
            case "gaussian":
                noise = float(data["noise_multiplier"])
                if not noise >= 0:
                    raise UnknownEventError(f"noise multiplier {noise} is negative")
                return dp_event.GaussianDpEvent(noise)
            case "randomised-response":
                return dp_event.RandomizedResponseDpEvent(float(data["noise"]), int(data["values"]))
            case "poisson-sampled":
                rate = float(data["sampling_rate"])
                if not 0 < rate <= 1:
                    raise UnknownEventError(f"sampling rate {rate} is not in (0, 1]")
                return dp_event.PoissonSampledDpEvent(rate, event_from_data(data["event"]))
            case "self-composed":
                return dp_event.SelfComposedDpEvent(event_from_data(data["event"]), int(data["count"]))
            case "composed":
                return dp_event.ComposedDpEvent([event_from_data(part) for part in data["events"]])
            case "one-noise":
                return OneNoiseDpEvent(event_from_data(data["event"]), int(data["markets"]))
            case kind:
                raise UnknownEventError(f"unknown event kind {kind!r}")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UnknownEventError(f"malformed event: {error!r}") from error


def randomised_response_epsilon(event: dp_event.RandomizedResponseDpEvent) -> float:
    """ε of one k-ary randomised response, for a change of the value."""
    p, k = event.noise_parameter, event.num_buckets
    return math.log1p(k * (1.0 - p) / p) if p > 0 else math.inf


GaussianSteps = dict[tuple[float, float], int]


def gaussian_steps(event: DpEvent) -> GaussianSteps | None:
    """Count of each (noise multiplier, sampling rate) in an event; None if any part is not private."""
    match event:
        case dp_event.NoOpDpEvent():
            return {}
        case dp_event.GaussianDpEvent():
            return {(event.noise_multiplier, 1.0): 1} if event.noise_multiplier > 0 else None
        case dp_event.PoissonSampledDpEvent():
            inner = gaussian_steps(event.event)
            if inner is None or sum(inner.values()) != 1 or next(iter(inner))[1] != 1.0:
                return None  # sampling of a composition is not the composition of samplings
            return {(next(iter(inner))[0], event.sampling_probability): 1}
        case dp_event.SelfComposedDpEvent():
            inner = gaussian_steps(event.event)
            return None if inner is None else {step: count * event.count for step, count in inner.items()}
        case dp_event.ComposedDpEvent():
            total: GaussianSteps = {}
            for part in event.events:
                inner = gaussian_steps(part)
                if inner is None:
                    return None
                for step, count in inner.items():
                    total[step] = total.get(step, 0) + count
            return total
        case OneNoiseDpEvent():
            return gaussian_steps(event.event)
    return None


def event_problem(event: DpEvent) -> str | None:
    """Why no accountant should be asked about an event that somebody else wrote; None if one may be."""
    for (noise_multiplier, rate), count in (gaussian_steps(event) or {}).items():
        within = _NOISE_MULTIPLIERS[0] <= noise_multiplier <= _NOISE_MULTIPLIERS[1] and 0 < rate <= 1
        if not (within and 1 <= count <= _MOST_STEPS):
            return f"an event of noise multiplier {noise_multiplier:g}, {count} times: out of bounds"
    return None


def parts(event: DpEvent) -> Iterator[DpEvent]:
    """The mechanisms of a composition, in order; a repetition is one."""
    if isinstance(event, dp_event.ComposedDpEvent):
        for part in event.events:
            yield from parts(part)
    else:
        yield event


def is_part_of(events: Sequence[DpEvent], plan: Sequence[DpEvent]) -> bool:
    """Whether the plan holds every mechanism of the events, as often; its ε then bounds theirs."""
    asked, planned = (gaussian_steps(dp_event.ComposedDpEvent(list(part))) for part in (events, plan))
    if asked is None or planned is None:
        return False
    return all(planned.get(step, 0) >= count for step, count in asked.items())
