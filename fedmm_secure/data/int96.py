"""Times of Parquet's INT96, which Spark, Hive and Impala write: 32 bits of days and 64 of nanoseconds.

Arrow makes 64 bits of them, in a unit of one's choice, and what does not fit becomes another time in silence. Seconds
hold all of them: a column is read in these beside nanoseconds, and says which of its nanoseconds are to be believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedmm_secure.data.faults import Faults
from fedmm_secure.data.times import REACH, REACH_SECONDS


def int96_columns(file: pq.ParquetFile) -> frozenset[str]:
    """Names of columns of this type, among those that hold one value a row."""
    columns = (file.schema.column(at) for at in range(len(file.schema)))
    return frozenset(column.path for column in columns if column.physical_type == "INT96")


class Int96Seconds:
    """The times of some columns of an open file in seconds, read from the first row to the last."""

    def __init__(self, source: pa.NativeFile, names: Collection[str], rows: int) -> None:
        file = pq.ParquetFile(source, coerce_int96_timestamp_unit="s", pre_buffer=False)
        self._batches: dict[str, Iterator[pa.RecordBatch]] = {
            name: file.iter_batches(batch_size=rows, columns=[name], use_threads=False) for name in names
        }
        self._held = {name: pa.array([], pa.int64()) for name in names}

    def without_others(self, name: str, nanoseconds: pa.Array, faults: Faults) -> pa.Array:
        """The next rows of a column in nanoseconds, ``(n,)``; null, and bad rows, where these do not reach."""
        n = len(nanoseconds)
        held = self._held[name]
        while len(held) < n:
            batch = next(self._batches[name], None)
            if batch is None:
                raise ValueError(f"column {name!r} has fewer rows than others")
            held = pa.concat_arrays([held, batch.column(0).cast(pa.int64())])
        self._held[name], held = held[n:], held[:n]
        seconds = held.fill_null(0).to_numpy(zero_copy_only=False)
        outside = np.abs(seconds) > REACH_SECONDS
        faults.mark(outside, lambda row: f"time {seconds[row]} (seconds since 1970) is {REACH}")
        return pc.if_else(pa.array(outside), pa.scalar(None, nanoseconds.type), nanoseconds)
