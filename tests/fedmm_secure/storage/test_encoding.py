"""Bytes of publications are numpy's own, and depend on none of its versions."""

import io

import numpy as np
import pytest

from fedmm_secure.storage.encoding import array_bytes, arrays_bytes, read_arrays

ARRAYS = {
    "none": np.zeros((0, 3)),
    "one": np.float64(2.5),
    "line": np.arange(7, dtype=np.int64),
    "long": np.zeros(123_456, np.uint8),
    "table": np.arange(6, dtype=np.float32).reshape(2, 3),
    "across": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "cube": np.ones((2, 3, 4), bool),
    "text": np.array(["a", "bcd"]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_written_as_numpy_writes_it(name):
    buffer = io.BytesIO()
    np.save(buffer, np.array(ARRAYS[name], order="C"))
    assert array_bytes(ARRAYS[name]) == buffer.getvalue()


def test_named_arrays_are_written_as_numpy_writes_them_by_name():
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array(ARRAYS[name], order="C") for name in sorted(ARRAYS)})
    written = arrays_bytes(ARRAYS)
    assert written == buffer.getvalue()
    assert arrays_bytes(dict(reversed(ARRAYS.items()))) == written
    assert all(np.array_equal(values, ARRAYS[name]) for name, values in read_arrays(written).items())


@pytest.mark.parametrize("values", [np.array([{}], object), np.zeros(2, [("a", "<i8")])])
def test_what_is_no_plain_array_is_refused(values):
    with pytest.raises(ValueError, match="not an array of numbers or text"):
        array_bytes(values)
