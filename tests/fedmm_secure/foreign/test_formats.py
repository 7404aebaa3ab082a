"""Small files that unpack into endless ones, and files that are not what they say."""

import io
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from fedmm_secure.errors import ConfigError
from fedmm_secure.foreign.formats import parse_arrays, parse_table, parse_tensors
from fedmm_secure.foreign.yaml_text import parse_yaml
from fedmm_secure.storage.files import torch_bytes
from privacy.foreign import ForeignFileError
from tests.malicious import ALIAS_BOMB, lying_zip, word_bomb, zip_bomb


def refused(parse, *arguments, match=None, **options):
    start = time.process_time()
    with pytest.raises(ForeignFileError, match=match) as error:
        parse(*arguments, **options)
    assert time.process_time() - start < 8
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a: &a [x]\nb: *a", "alias"),
        (b"a: 1\na: 2", "there twice"),
        (b"[" * 10**5, "nest"),
        (b"{a: " * 10**5, "nest|long"),
        (b"- " * 10**5, "nest|long"),
        (b"a: 1" + b":1" * 10**5, "long"),
        (b"a: " + b"1" * 9999, "64 bits"),
        (b"a: 0x" + b"f" * 5000, "64 bits"),
        (b"a: 9223372036854775808", "64 bits"),
        (b"%TAG ! tag:x,2000:\n--- a: 1", "directive"),
        (b"a: 1\n...\n%YAML 1.1\n---\nb: 1", "directive"),
        (b"a: 2020-99-99", "month"),
        (b"? [a]\n: 1", "key"),
        (b"a: !!python/object/apply:os.getcwd []", "constructor"),
        (b"\xff", "UTF-8"),
        (b"a: [b", "expected"),
    ],
)
def test_yaml_that_no_run_writes(text, problem):
    refused(parse_yaml, text, "file", match=problem)


def test_aliases_of_ones_own_are_bounded():
    assert parse_yaml(b"a: &a [x, x]\nb: *a", "file", aliases=True) == {"a": ["x", "x"], "b": ["x", "x"]}
    refused(parse_yaml, ALIAS_BOMB.encode(), "file", aliases=True, match="stand for more")
    refused(parse_yaml, b"a: &a [*a]", "file", aliases=True, match="recursive")


def test_yaml_is_read_as_by_the_library(tmp_path):
    text = "a: 1\nb: [1.5, yes, null, 2020-01-01]\nc: {d: 'text', e: \"x\\ny\"}\n"
    assert parse_yaml(text.encode(), "file") == yaml.safe_load(text)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_arrays():
    found = parse_arrays(npz(a=np.arange(3), b=np.array("text"), c=np.float64(1.0)), "file")
    assert found["a"].tolist() == [0, 1, 2]
    assert (str(found["b"]), float(found["c"])) == ("text", 1.0)
    refused(parse_arrays, npz(a=np.array([{}], dtype=object)), "file")
    refused(parse_arrays, b"", "file")
    refused(parse_arrays, lying_zip(), "file", match="values")
    refused(parse_arrays, zip_bomb(), "file", match="not stored")


class Code:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "value",
    [
        Code(),
        {"a": Code()},
        [1],
        {"a": 1},
        {1: torch.zeros(1)},
        {"a": torch.zeros(1).expand(10**12)},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a": torch.zeros(2, 3).t()},
        {"a": torch.zeros(1, device="meta")},
    ],
)
def test_what_is_no_named_tensors(value, capsys):
    refused(parse_tensors, torch_bytes(value), "file")
    assert capsys.readouterr().out == ""


def test_tensors():
    found = parse_tensors(torch_bytes({"a": torch.arange(3)}), "file")
    assert found["a"].tolist() == [0, 1, 2]
    for data in (b"", zip_bomb(), lying_zip(), torch_bytes({})[:-30]):
        refused(parse_tensors, data, "file")
    refused(parse_tensors, zip_bomb(), "file", match="not stored")


def table_bytes(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def test_tables():
    frame = pd.DataFrame({"id": [f"u{n}" for n in range(10_000)], "code": np.arange(10_000), "share": 0.5})
    data = table_bytes(frame)
    found = parse_table(data, "file")
    assert found["id"].astype(str).tolist() == frame["id"].tolist()
    assert found["code"].tolist() == frame["code"].tolist()
    assert list(parse_table(data, "file", ["share", "id"], rows=10_000).columns) == ["share", "id"]
    assert len(parse_table(table_bytes(frame[:0]), "file")) == 0
    refused(parse_table, data, "file", ["nothing"], match="no column")
    refused(parse_table, data, "file", rows=3, match="10000 rows where 3")
    refused(parse_table, data, "file", limit=1000, match="in memory")
    for broken in (b"", b"PAR1", data[:-1], data[: len(data) // 2]):
        refused(parse_table, broken, "file")
    nested = pa.table({"a": [[1], [2]]})
    buffer = io.BytesIO()
    pq.write_table(nested, buffer)
    refused(parse_table, buffer.getvalue(), "file", match="plain")


def test_a_word_that_a_table_repeats_is_there_once():
    data = word_bomb(("id",))
    assert len(data) < 2**20
    found = parse_table(data, "file")
    assert len(found) == 10**5
    assert found["id"].memory_usage(deep=True) < 2**24


def test_errors_of_ones_own_configuration_name_the_line(tmp_path):
    from fedmm_secure.config import load_yaml

    path = tmp_path / "my.yaml"
    path.write_text("a: 1\nb: [")
    with pytest.raises(ConfigError, match=r"my.yaml:3: not valid YAML"):
        load_yaml(path)


def test_a_table_that_says_it_unpacks_to_more_than_it_may_is_refused_before_it_does(monkeypatch):
    columns = {f"c{index}": pa.array(np.arange(50_000)) for index in range(20)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **named: pytest.fail("was unpacked"))
    with pytest.raises(ForeignFileError, match="bytes in memory"):
        parse_table(buffer.getvalue(), "x.parquet", limit=2**20)
