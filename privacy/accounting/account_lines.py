"""What a line of a privacy account may say: every field, and no other, in its bounds.

An account may be somebody else's, who has its key as well and forges lines at will. What a line says is added up, so
that a number that no run can spend has no place in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from privacy.accounting.events import event_from_data, event_problem
from privacy.foreign import json_object

_Name = Annotated[str, Field(max_length=1000)]
_Count = Annotated[int, Field(ge=0, le=10**9)]


def _accountable(data: dict[str, Any]) -> dict[str, Any]:
    if problem := event_problem(event_from_data(data)):
        raise ValueError(problem)
    return data


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Ceiling(_Closed):
    epsilon: Annotated[float, Field(gt=0, le=1e6)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    views: Annotated[list[_Name], Field(min_length=1, max_length=10)]


class _Spent(_Closed):
    run: _Name
    events: dict[_Name, Annotated[dict[str, Any], AfterValidator(_accountable)]]
    coordinates: Annotated[int, Field(ge=0, le=10**18)]
    extra_delta: Annotated[float, Field(ge=0, le=1)]
    markets: Annotated[int, Field(ge=1, le=10**6)] | None = None
    users: _Name | None = None
    ceiling: _Ceiling | None = None


class _Entered(_Spent):
    market: _Name | None


class _Heard(_Closed):
    """What another account held of the data, and what an account calls them: a line of an earlier version, one name."""

    data: list[_Name] | _Name | None
    runs: list[_Entered]


class _Start(_Closed):
    fingerprint: _Name
    run: _Name
    market: _Name | None = None
    nonce: _Name
    charges: _Count
    elsewhere: dict[_Name, _Heard] = {}


class _Enters(_Start, _Spent):
    """A course of a run begins."""

    seals: _Count = 0
    parted: bool = False


class _Follows(_Start):
    """A course goes on."""

    follows: _Name


class _Charged(_Closed):
    fingerprint: _Name
    run: _Name
    at: _Name
    charges: _Count


class _Sealed(_Charged):
    seals: _Count
    sealed: _Name


class _Line(_Closed):
    sequence: _Count
    previous: _Name
    body: dict[str, Any]
    mac: _Name


_KINDS: Mapping[str, type[_Closed]] = {"events": _Enters, "follows": _Follows, "sealed": _Sealed, "at": _Charged}


def body_problem(body: Mapping[str, Any]) -> str | None:
    """Why a line after the first is none that a run enters; None if it is one."""
    kind = next((kind for name, kind in _KINDS.items() if name in body), None)
    if kind is None:
        return "neither a start nor a charge nor a seal"
    return _problem(kind, dict(body))


def parse_line(raw: bytes, where: str) -> dict[str, Any]:
    """A line: ``sequence``, ``previous``, ``body`` and ``mac``; what the body says is not looked at.

    Raises:
        ForeignFileError: it is no JSON object, or nested without end.
        ValueError: it has other fields.
    """
    found = json_object(raw, where)
    if problem := _problem(_Line, found):
        raise ValueError(problem)
    return found


def enters(body: Mapping[str, Any]) -> bool:
    """Whether a line enters a course of a run."""
    return "events" in body


def is_named(body: Mapping[str, Any], run: str, market: str) -> bool:
    """Whether what a line enters may be a run's of a market; lines of an earlier version name none."""
    return body["run"] == run and body.get("market") in (market, None)


def is_of(body: Mapping[str, Any], run: str, market: str) -> bool:
    """Whether a line enters a run, or took down that another account had."""
    told = [one for found in body.get("elsewhere", {}).values() for one in found["runs"]]
    entered = [body] if enters(body) else []
    return any(is_named(one, run, market) for one in [*entered, *told])


def _problem(kind: type[_Closed], fields: dict[str, Any]) -> str | None:
    try:
        kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg'][:200]}"
    return None
