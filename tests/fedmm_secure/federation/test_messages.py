"""Messages: what one changed byte, one foreign field or one hostile byte string does."""

import json
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm_secure.federation.messages import (
    MAX_HEADER_BYTES,
    Header,
    Hello,
    MessageError,
    expect,
    hello_header,
    pack,
    unpack,
    verify,
)
from privacy.aggregation import AggregationError, Binding, CKKSKey, CKKSMarket, CKKSParameters, CKKSServer
from tests.parties import MARKETS, bundle, identity

HEADER = Header("update", "run", "quantizer/0", 3, 0, "d", "abc", MARKETS)
CARD, SIGN = identity("d").card, identity("d").sign
PARAMETERS = CKKSParameters.derive(length=40, cohort=4, value_bound=2**10)


@given(st.binary(max_size=200), st.integers(0, 10**6), st.text(max_size=20))
def test_messages_survive_the_way(payload, round, stage):
    header = replace(HEADER, stage=stage, round=round)
    assert verify(pack(header, payload, SIGN), CARD) == (header, payload)


@given(st.data())
def test_any_changed_byte_is_noticed(data):
    message = bytearray(pack(HEADER, b"payload", SIGN))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageError):
        expect(bytes(message), HEADER, CARD)


@given(st.data())
def test_cut_and_extended_messages_are_refused(data):
    message = pack(HEADER, b"payload", SIGN)
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    for bad in (cut, message + data.draw(st.binary(min_size=1, max_size=9))):
        with pytest.raises(MessageError):
            expect(bad, HEADER, CARD)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_without_a_crash(data):
    with pytest.raises(MessageError):
        unpack(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["version", *vars(HEADER)]), JSON)
def test_a_signed_header_with_a_field_of_another_value_or_type_is_refused(field, value):
    """A market that signs nonsense properly."""
    fields = {"version": 3, **vars(HEADER), "cohort": list(HEADER.cohort)}
    if json.dumps(fields[field]) == json.dumps(value):
        return
    text = json.dumps(fields | {field: value}, sort_keys=True).encode()
    signed = len(text).to_bytes(4, "big") + text + b"payload"
    with pytest.raises(MessageError):
        expect(signed + SIGN(signed), HEADER, CARD)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "other"),
        ("round", 2),
        ("attempt", 1),
        ("parameters", "x"),
        ("stage", "quantizer/1"),
        ("kind", "aggregate"),
        ("cohort", MARKETS[1:]),
    ],
)
def test_a_message_of_another_context_is_named(field, value):
    other = replace(HEADER, **{field: value})
    with pytest.raises(MessageError, match=field):
        expect(pack(other, b"x", SIGN), HEADER, CARD)


def test_a_message_signed_by_another_market_is_refused():
    with pytest.raises(MessageError, match="not signed by d"):
        expect(pack(HEADER, b"x", identity("a").sign), HEADER, CARD)
    with pytest.raises(MessageError, match="sender is 'a'"):
        expect(pack(replace(HEADER, sender="a"), b"x", identity("a").sign), HEADER, CARD)


@pytest.mark.parametrize(
    "bad", [b"[" * 60000, b'{"a":' * 12000, b"1" * 60000, b'{"version": 1e999}', b"\xff\xfe", b"NaN"]
)
def test_hostile_json_is_refused_quickly_and_in_little_memory(bad):
    message = len(bad).to_bytes(4, "big") + bad + bytes(64)
    with pytest.raises(MessageError):
        unpack(message)


def test_sizes_are_bounded():
    with pytest.raises(MessageError, match="exceeds"):
        pack(replace(HEADER, stage="x" * MAX_HEADER_BYTES), b"", SIGN)
    with pytest.raises(MessageError, match="oversized header"):
        unpack((2**31).to_bytes(4, "big") + bytes(100))


def test_a_hello_has_one_size():
    assert Hello.from_bytes(Hello(bytes(range(32)), bytes(range(32))).to_bytes()).configuration == bytes(range(32))
    for bad in (b"", bytes(63), bytes(65)):
        with pytest.raises(MessageError, match="hello"):
            Hello.from_bytes(bad)
    assert hello_header("run", "a", bundle().digest).kind == "hello"


# -- mutation of real messages, through everything that reads them --------------------------------------------


@pytest.fixture(scope="module")
def real():
    """A real encrypted update, its server, and the key holder who opens aggregates."""
    market = CKKSMarket(PARAMETERS, CKKSKey.generate(PARAMETERS))
    server = CKKSServer(PARAMETERS)
    payload = market.protect(np.arange(40), Binding("run", "quantizer/0", 3, 0, MARKETS))
    return market, server, payload, pack(HEADER, payload, SIGN)


def mutate(rng, message, others):
    """Flip, cut, extend, repeat, splice: what a broken or hostile sender does to bytes."""
    data = bytearray(message)
    for _ in range(int(rng.integers(1, 4))):
        kind, at = rng.integers(6), int(rng.integers(len(data) + 1))
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= int(rng.integers(1, 256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 3:
            data[at : at + 8] = rng.choice([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7])
        elif kind == 4:
            data[at:] = data[: len(data) - at]
        else:
            data[at:] = others[int(rng.integers(len(others)))][at:]
        if not data:
            break
    return bytes(data)


def fuzz(real, n, seed):
    """How many mutants were tried, accepted changed by the message layer, and how long the slowest took."""
    market, server, payload, message = real
    rng, slowest, tried = np.random.default_rng(seed), 0.0, 0
    others = [message, payload, pack(replace(HEADER, round=4), payload, SIGN), bytes(len(message))]
    aggregate = server.aggregate([payload])
    while tried < n:
        start = time.perf_counter()
        changed = mutate(rng, message, others)
        if changed != message:
            with pytest.raises(MessageError):
                expect(changed, HEADER, CARD)
        # a market that signs what it likes: the payload reaches the ciphertext reader
        for read, honest in ((server.check, payload), (market.reveal, aggregate)):
            try:
                read(mutate(rng, honest, [payload, aggregate, bytes(len(honest))]))
            except AggregationError:
                continue  # refused
        tried += 3
        slowest = max(slowest, time.perf_counter() - start)
    return tried, slowest


def test_mutated_messages_are_refused_and_mutated_payloads_harm_nobody(real):
    tried, slowest = fuzz(real, 6_000, seed=0)
    assert tried >= 6_000
    assert slowest < 30  # no hang


@pytest.mark.slow
def test_a_hundred_thousand_mutants_cause_no_crash_no_hang_and_no_growth(real):
    fuzz(real, 3_000, seed=1)
    tracemalloc.start()
    tried, slowest = fuzz(real, 150_000, seed=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tried >= 150_000
    assert slowest < 30
    assert peak < 64 * 2**20
