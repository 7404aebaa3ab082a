"""The aggregation server: adds what it cannot read, and rejects what it should not add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmm_secure.federation.messages import Header, MessageError, expect, pack
from fedmm_secure.federation.transcript import Transcript
from privacy.aggregation import AggregationError, ServerAggregator


class CohortTooSmallError(Exception):
    """Too few valid updates: the round stopped and nothing was released."""


@dataclass(frozen=True)
class Rejection:
    """An update that was left out."""

    market: str
    round: int
    reason: str


@dataclass(frozen=True)
class RoundResult:
    """An aggregate message and whose updates it adds up."""

    message: bytes
    cohort: tuple[str, ...]
    rejections: tuple[Rejection, ...]


class AggregationServer:
    """Holds public material only."""

    def __init__(
        self,
        *,
        run: str,
        parameters_sha256: str,
        markets: Sequence[str],
        min_cohort: int,
        aggregator: ServerAggregator,
        transcript: Transcript,
    ) -> None:
        self._run, self._parameters = run, parameters_sha256
        self._markets, self._min_cohort = tuple(markets), min_cohort
        self._aggregator, self._transcript = aggregator, transcript

    def aggregate(self, stage: str, round: int, messages: Mapping[str, bytes]) -> RoundResult:
        """Sum the valid updates of a round, keyed by the market that each connection belongs to.

        Raises:
            CohortTooSmallError: fewer valid updates than the minimum cohort.
        """
        payloads: dict[str, bytes] = {}
        rejections: list[Rejection] = []
        for market, message in sorted(messages.items()):
            try:
                if market not in self._markets:
                    raise MessageError("not a market of this federation")
                wanted = Header("update", self._run, stage, round, market, self._parameters)
                payload = expect(message, wanted)
                self._aggregator.check(payload)
                if payload in payloads.values():
                    raise MessageError("the same payload as another market's")
                payloads[market] = payload
            except (MessageError, AggregationError) as error:
                rejections.append(Rejection(market, round, str(error)))
        if len(payloads) < self._min_cohort:
            reasons = "; ".join(f"{found.market}: {found.reason}" for found in rejections) or "no more were sent"
            raise CohortTooSmallError(
                f"{stage}, round {round}: {len(payloads)} valid updates, {self._min_cohort} are needed ({reasons})"
            )
        cohort = tuple(payloads)
        header = Header("aggregate", self._run, stage, round, "server", self._parameters, cohort)
        message = pack(header, self._aggregator.aggregate(list(payloads.values())))
        self._transcript.add(
            message,
            kind="aggregate",
            stage=stage,
            round=round,
            sender="server",
            visible_to=("server", "markets"),
            receivers=len(cohort),
        )
        return RoundResult(message, cohort, tuple(rejections))
