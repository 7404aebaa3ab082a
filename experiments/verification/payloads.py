"""What a message may carry: of each kind one form, so that nothing that is signed has room beside what it says."""

from __future__ import annotations

from functools import cache

import numpy as np

from fedmm_secure.config import Config, configuration_hash
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.messages import Header, Hello, MessageError
from fedmm_secure.federation.orders import HISTORY_BYTES
from fedmm_secure.federation.parties import start_of
from fedmm_secure.federation.transcript import AGGREGATE, HELLO, START, STATEMENT, UPDATE
from fedmm_secure.guarantee.shared_sums import SharedSums
from privacy.aggregation import AggregationError, ServerAggregator
from privacy.aggregation.base import IntVector


def integers(data: bytes) -> IntVector:
    """Integers as a record holds them."""
    return np.frombuffer(data, "<i8").astype(np.int64)


class Forms:
    """Headers and payloads of a run's messages, held to their form; what they say of the run is checked elsewhere.

    Args:
        config: of the run.
        aggregation: how updates are protected and added up.
        markets: of the federation.
    """

    def __init__(self, config: Config, aggregation: AggregationPlan, markets: tuple[str, ...]) -> None:
        self._aggregation, self._markets = aggregation, markets
        self._configuration, self._start = configuration_hash(config), start_of(config).to_bytes()
        self._checks = {
            START: self._order_to_start,
            HELLO: self._hello,
            STATEMENT: self._statement,
            UPDATE: self._update,
            AGGREGATE: self._aggregate,
        }

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of messages that there are."""
        return frozenset(self._checks)

    def check(self, header: Header, payload: bytes) -> None:
        """Raises ``MessageError`` for a message that no party of this run sends."""
        try:
            self._checks[header.kind](header, payload)
        except AggregationError as error:
            raise MessageError(f"its payload is none of {header.stage}: {error}") from error

    def _order_to_start(self, header: Header, payload: bytes) -> None:
        if header.cohort != self._markets or payload != self._start:
            raise MessageError("the server's order to start is of another configuration or plan")

    def _hello(self, header: Header, payload: bytes) -> None:
        if header.cohort:
            raise MessageError("a hello names no cohort")
        if Hello.from_bytes(payload).configuration != self._configuration:
            raise MessageError(f"market {header.sender} signed a hello of another configuration")

    def _statement(self, header: Header, payload: bytes) -> None:
        self._order(header)
        if len(payload) != HISTORY_BYTES:
            raise MessageError(f"a statement of {len(payload)} bytes where {HISTORY_BYTES} were expected")

    def _update(self, header: Header, payload: bytes) -> None:
        self._order(header)
        self._server(header.stage).check(payload)

    def _aggregate(self, header: Header, payload: bytes) -> None:
        self._order(header)
        self._server(header.stage).check_sum(payload, len(header.cohort))

    def _order(self, header: Header) -> None:
        """Each attempt after the first has a smaller cohort, and of masked sums there is the whole one alone."""
        cohort, missing = header.cohort, len(self._markets) - len(header.cohort)
        known = cohort == tuple(sorted(set(cohort))) and set(cohort) <= set(self._markets)
        takes_part = header.kind == AGGREGATE or header.sender in cohort
        if not (known and takes_part) or (missing and self._aggregation.masked):
            raise MessageError(f"its cohort, {', '.join(cohort)!s:.100}, is none of this federation")
        if header.attempt > missing:
            raise MessageError(f"attempt {header.attempt} where {missing} markets are missing; each has fewer markets")

    @cache  # noqa: B019 - as long as one verification
    def _server(self, stage: str) -> ServerAggregator:
        return self._aggregation.of_stage(stage).server()


def sum_problem(plan: AggregationPlan, data: bytes, sums: SharedSums | None = None) -> str | None:
    """What is wrong with the record of an opened sum of a stage by itself; None where it may be one.

    Args:
        plan: of the stage.
        data: of the record.
        sums: over a shared catalogue, where the stage is one of these.
    """
    if len(data) != 8 * plan.values:
        return f"a sum of {len(data)} bytes where {plan.values} values of 8 are planned"
    total, half = integers(data), 2 ** (plan.mask_bits - 1)
    low, high = (-half, half - 1) if plan.masked else (-plan.largest_sum, plan.largest_sum)
    if sums is not None:
        high = sums.bound_of(plan.stage)
        low = -high
    if total.min(initial=0) < low or total.max(initial=0) > high:
        return f"a value of its sum is outside {low} to {high}"
    return None
