"""Directories that somebody made up: each ends in findings or one line, in bounded time, and nothing is followed."""

import json
import os
import random
import shutil
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.verification import examine_run, verify_run
from fedmm_secure.federation.transcript import INDEX
from privacy.errors import InputError
from privacy.foreign import MAX_BYTES
from tests.forgery import Forgery


def texts(directory):
    return "\n".join(f"{finding.where}: {finding.what}" for finding in verify_run(directory))


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json"])
@pytest.mark.parametrize("how", ["missing", "a link", "a folder", "empty", "bytes", "a list"])
def test_without_configuration_or_metrics_there_is_one_line(released_copy, tmp_path, name, how):
    path = released_copy / name
    kept = path.read_bytes()
    path.unlink()
    if how == "a link":
        (tmp_path / "outside").write_bytes(kept)
        path.symlink_to(tmp_path / "outside")
    elif how == "a folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes({"empty": b"", "bytes": b"\xff\xfe\x00", "a list": b"[1, 2]"}[how])
    with pytest.raises(InputError) as error:
        verify_run(released_copy)
    assert "\n" not in str(error.value)


def test_a_yaml_that_expands_without_end_is_refused(released_copy):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    (released_copy / "config.yaml").write_text(bomb + f"seed: *{chr(97 + 20)}\n")
    with pytest.raises(InputError, match="alias"):
        verify_run(released_copy)


@pytest.mark.parametrize(
    "name",
    [
        "ledger/m0.jsonl",
        "transcript/index.jsonl",
        "models/m0/ctr-0.pt",
        "codes/m0.parquet",
        "environment.json",
        "codes",
    ],
)
def test_a_link_is_found_and_nothing_behind_it_is_read(released_copy, tmp_path, name, monkeypatch):
    path = released_copy / name
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    (found,) = verify_run(released_copy)
    assert found.where == str(path)
    assert "is a link" in found.what


def test_a_link_in_the_servers_directory_is_not_followed_either(released_run, tmp_path):
    server = tmp_path / "server"
    shutil.copytree(released_run / "transcript", server / "transcript")
    assert not any("is a link" in finding.what for finding in verify_run(released_run, server))
    index = server / "transcript" / INDEX
    index.rename(tmp_path / "outside")
    index.symlink_to(tmp_path / "outside")
    assert [finding.what for finding in verify_run(released_run, server)] == [
        "is a link; evidence is what the directory itself holds"
    ]


def test_a_pipe_is_found_and_not_waited_for(released_copy):
    path = released_copy / "transcript" / "counts" / "0000-meter-m0.bin"
    path.unlink()
    os.mkfifo(path)
    assert "is no regular file" in texts(released_copy)


def test_an_oversized_file_is_found_and_not_read(released_copy):
    path = released_copy / "models" / "m0" / "ctr-0.pt"
    with path.open("r+b") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no space
    assert "more than a run writes" in texts(released_copy)


@pytest.mark.parametrize("file", ["../../outside", "/etc/hostname", "counts/../../config.yaml"])
def test_a_record_of_a_file_outside_is_not_followed(released_copy, file):
    index = released_copy / "transcript" / INDEX
    record = json.loads(index.read_text().splitlines()[0])
    index.write_text(index.read_text() + json.dumps({**record, "file": file}) + "\n")
    assert "names a file outside" in texts(released_copy)


@pytest.mark.parametrize(
    "name",
    [
        "ledger/m0.jsonl",
        "transcript/index.jsonl",
        "transcript/federation.json",
        "transcript/quantizer/0/0001-update-m1.bin",
        "transcript/quantizer-model/0/0000-publication-m0.bin",
        "models/m0/ctr-0.pt",
        "models/m0/quantizer-0.pt",
        "codes/m0.parquet",
        "predictions/m0.parquet",
        "environment.json",
    ],
)
@pytest.mark.parametrize("how", ["missing", "bytes", "half"])
def test_whatever_is_missing_or_broken_is_a_finding(released_copy, name, how):
    path = released_copy / name
    kept = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"bytes": bytes(range(256)), "half": kept[: len(kept) // 2]}[how])
    found = verify_run(released_copy)
    kept_by_its_owner = how == "missing" and name.startswith(("codes", "predictions"))  # nobody has to show them
    assert bool(found) != kept_by_its_owner
    assert all("\n" not in f"{finding.where}{finding.what}" for finding in found)


VALUES = [None, "80", 2**63 - 1, [], -1, {}, 1e308, True, 0]


def with_values(*fields):
    """Each field with two of the values, another pair each time."""
    pairs = [(field, VALUES[(2 * n + k) % len(VALUES)]) for n, field in enumerate(fields) for k in range(2)]
    return pytest.mark.parametrize(("field", "value"), pairs, ids=[f"{field}: {value!r:.12}" for field, value in pairs])


@with_values(
    "markets.m0.n_users",
    "markets",
    "privacy",
    "privacy.markets.m0",
    "privacy.markets.m0.release",
    "privacy.markets.m0.release.epsilon",
    "privacy.catalogue.m0",
    "privacy.catalogue.m0.size",
)
def test_metrics_of_other_types_are_findings(released_copy, field, value):
    def change(metrics):
        *parents, last = field.split(".")
        for key in parents:
            metrics = metrics[key]
        metrics[last] = value

    Forgery(released_copy).json("metrics.json", change)
    assert verify_run(released_copy)


def test_an_integer_of_more_than_64_bits_is_refused_wherever_it_stands(released_copy):
    def change(metrics):
        metrics["privacy"]["markets"]["m0"]["release"]["epsilon"] = 10**400

    forgery = Forgery(released_copy)
    forgery.opening("m0")["users"] = 10**400
    forgery.finish(owner=True)
    assert any("64 bits" in finding.what for finding in verify_run(released_copy))
    forgery.json("metrics.json", change)
    with pytest.raises(InputError, match="64 bits"):
        verify_run(released_copy)


@with_values("users", "items", "sizes", "noise", "delta", "run", "data", "federation", "catalogue")
def test_an_owners_first_line_of_other_types_is_a_finding(released_copy, field, value):
    forgery = Forgery(released_copy)
    forgery.opening("m0")[field] = value
    forgery.finish(owner=True)
    found = examine_run(released_copy).checks["opening line"]
    assert found
    assert not any("cannot be checked" in finding.what for finding in found)


@with_values("stage", "event", "audience", "delta", "round", "coordinates", "view_events", "remark", "unit")
def test_an_owners_entry_of_other_types_is_a_finding(released_copy, field, value):
    forgery = Forgery(released_copy)
    next(entry for entry in forgery.entries("m0") if entry["stage"] == "counts")[field] = value
    forgery.finish(owner=True)
    assert verify_run(released_copy) or field in ("round", "remark", "view_events")  # None and {} are right there


@with_values("files", "transcript", "lines", "card", "signature")
def test_a_last_line_of_other_types_is_a_finding(released_copy, field, value):
    forgery = Forgery(released_copy)
    forgery.ledgers["m0"][-1].body["statement"][field] = value
    forgery.finish(owner=False)
    assert examine_run(released_copy).checks["closing line"]


def test_a_market_whose_name_leads_elsewhere_is_a_finding(released_copy):
    forgery = Forgery(released_copy)

    def change(metrics):
        metrics["markets"]["../../m9"] = metrics["markets"]["m0"]

    forgery.json("metrics.json", change)
    assert "is no market of this run" in texts(released_copy)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_no_changed_byte_of_the_evidence_goes_unseen(released_copy, seed):
    """Every byte but the bundle's white space is hashed, signed or compared."""
    draw = random.Random(seed)
    paths = [
        path
        for folder in ("ledger", "transcript", "models", "codes", "predictions")
        for path in sorted((released_copy / folder).rglob("*"))
        if path.is_file() and path.name != "federation.json"
    ]
    path = draw.choice(paths)
    kept = path.read_bytes()
    changed = bytearray(kept)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    try:
        path.write_bytes(changed)
        assert verify_run(released_copy), f"{path.name}, {zlib.crc32(kept)}"
    finally:
        path.write_bytes(kept)
