"""That all markets agreed: every sum has the statements of its cohort, and they state one history of the run."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.verification.evidence import Evidence, Messages
from experiments.verification.transcript import Key, Opened, key_of
from fedmm_secure.federation.messages import HELLO_STAGE, MessageError
from fedmm_secure.federation.orders import Order, Place, Statement, after, beginning
from fedmm_secure.federation.parties import start_of
from fedmm_secure.federation.transcript import AGGREGATE, HELLO, START, STATEMENT
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.bundle import SERVER


def agreement_findings(evidence: Evidence, messages: Messages, opened: Opened) -> Iterator[Finding]:
    """The run began by an order of the server's, and no round was summed that its cohort had not stated.

    A history begins with the order to start and the hellos, anew for each time that an old copy of the state was
    resumed (their ``attempt``), and goes on with the bytes of each round's aggregate.
    """
    start, where = start_of(evidence.config), str(messages.directory)
    digests = {key_of(record): record.sha256 for record in messages.records}
    ordered: Key = (START, HELLO_STAGE, 0, 0, SERVER)
    if ordered not in opened:
        yield Finding(where, "no order to start, signed by the server")
        return
    courses: dict[int, dict[str, str]] = {}
    for kind, _, _, course, sender in opened:
        if kind == HELLO:
            courses.setdefault(course, {})[sender] = digests[kind, HELLO_STAGE, 0, course, sender]
    histories = [beginning(digests[ordered], hellos) for hellos in courses.values()]
    summed: dict[Place, Key] = {key[1:3]: key for key in opened if key[0] == AGGREGATE}
    stated: dict[Place, list[tuple[str, bytes]]] = {}  # in whatever attempt
    for place in (key for key in opened if key[0] == STATEMENT):
        stated.setdefault(place[1:3], []).append((place[-1], opened[place][1]))
    for stage, round in start.places:
        key = summed.get((stage, round))
        for market, history in stated.get((stage, round), ()):
            if history not in histories:
                what = f"market {market} states no history that the recorded messages give"
                yield Finding(f"{where} {stage}, round {round}", what)
        if key is None:
            continue  # a finding about the rounds
        yield from _stated(f"{where} {stage}, round {round}", key, opened, histories)
        histories = [after(history, digests[key]) for history in histories]


def _stated(where: str, key: Key, opened: Opened, histories: list[bytes]) -> Iterator[Finding]:
    header = opened.header(key)
    found = {}
    for market in header.cohort:
        said = opened.get((STATEMENT, *key[1:4], market))
        if said is None or Order.of(said[0]) != Order.of(header):
            yield Finding(where, f"market {market} has not stated that it takes part with {', '.join(header.cohort)}")
        else:
            found[market] = said[1]
    if not any(_agree(found, Statement(Order.of(header), history)) for history in histories):
        yield Finding(where, "its markets do not state the history that the recorded messages give")


def _agree(found: dict[str, bytes], statement: Statement) -> bool:
    try:
        for market, payload in found.items():
            statement.check(payload, market)
    except MessageError:
        return False
    return True
