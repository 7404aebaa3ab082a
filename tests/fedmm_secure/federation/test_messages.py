import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm_secure.federation.messages import Header, MessageError, expect, pack, unpack

HEADER = Header("update", "run", "quantizer/0", 3, "de", "abc")


@given(st.binary(max_size=200), st.integers(0, 10**6), st.text(max_size=20))
def test_messages_survive_the_way(payload, round, sender):
    header = Header("update", "run", "quantizer/0", round, sender, "abc")
    assert unpack(pack(header, payload)) == (header, payload)


@given(st.data())
def test_a_changed_header_byte_is_noticed(data):
    message = bytearray(pack(HEADER, b"payload"))
    header_end = len(message) - len(b"payload")
    position = data.draw(st.integers(0, header_end - 1))
    message[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageError):
        expect(bytes(message), HEADER)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_without_a_crash(data):
    with pytest.raises(MessageError):
        unpack(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "other"),
        ("round", 2),
        ("sender", "fr"),
        ("parameters", "x"),
        ("stage", "quantizer/1"),
        ("kind", "aggregate"),
    ],
)
def test_a_message_of_another_context_is_named(field, value):
    other = Header(**{**vars(HEADER), field: value})
    with pytest.raises(MessageError, match=field):
        expect(pack(other, b"x"), HEADER)
