"""Rows, or another statement, where nobody reads: each place is shown to be open to a plain reader, and is found."""

import io
import json
import zipfile

import numpy as np
import pytest

from experiments.reports.run import page_findings, write_report
from experiments.verification import examine_run
from fedmm_secure.federation.transcript import INDEX, read_index
from fedmm_secure.storage.layout import PAGE_FILE
from privacy.accounting.ledger import CHARGE, LedgerError, read_ledger
from tests.forgery import Forgery
from tests.manipulations import COUNTS, ROWS


def found_by(run) -> dict[str, list[str]]:
    return {name: [found.what for found in findings] for name, findings in examine_run(run).checks.items() if findings}


def torn(index: bytes) -> bytes:
    return index + b"# " + ROWS.hex().encode()


def superseded(index: bytes) -> bytes:
    record = json.loads(index.splitlines()[0])
    return json.dumps({**record, "stage": ROWS.hex()}, sort_keys=True).encode() + b"\n" + index


@pytest.mark.parametrize("change", [torn, superseded])
def test_lines_of_the_index_that_are_not_read(released_copy, change):
    path = released_copy / "transcript" / INDEX
    before = {record.file: record for record in read_index(path.parent)}
    path.write_bytes(change(path.read_bytes()))
    assert {record.file: record for record in read_index(path.parent)} == before  # a reader sees nothing
    assert list(found_by(released_copy)) == ["files"]


def test_a_comment_of_an_archive(released_copy):
    run = Forgery(released_copy)
    buffer = io.BytesIO(run.read(COUNTS))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = ROWS[:1000]
    with np.load(io.BytesIO(buffer.getvalue())) as changed, np.load(io.BytesIO(run.read(COUNTS))) as as_it_was:
        assert all(np.array_equal(changed[name], as_it_was[name]) for name in as_it_was.files)  # a reader sees nothing
    run.replace(COUNTS, buffer.getvalue())
    run.finish(owner=True)
    found = found_by(released_copy)
    assert list(found) == ["publications"]
    assert "does not end as an archive does" in found["publications"][0]


def test_a_further_field_of_a_ledger_line(released_copy):
    run = Forgery(released_copy)
    charge = next(line for line in run.ledgers["m0"] if line.kind == CHARGE)
    charge.body["rows"] = ROWS.hex()
    run.finish(owner=True)
    with pytest.raises(LedgerError, match="holds more than a line of its kind does"):
        read_ledger(released_copy / "ledger" / "m0.jsonl")
    assert "ledger chain" in found_by(released_copy)


def test_blanks_in_the_metrics(released_copy):
    path = released_copy / "metrics.json"
    before = json.loads(path.read_text())
    path.write_text(path.read_text() + " " * 100)
    assert json.loads(path.read_text()) == before
    assert set(found_by(released_copy)) == {"closing line", "files"}


def test_another_epsilon_on_the_page(released_copy):
    """Nothing signs the page, and a reader looks at nothing else: it is written again and compared."""
    write_report(released_copy)
    path = released_copy / PAGE_FILE
    examined = examine_run(released_copy)
    assert page_findings(released_copy, examined) == ([], ["report.html is the page of the run"])
    page = path.read_text()
    path.write_text(page.replace("8.0", "0.5").replace("7.9", "0.4"))
    assert path.read_text() != page
    assert examined.findings == []
    findings, _ = page_findings(released_copy, examined)
    assert [finding.where for finding in findings] == [str(path)]
    moved = released_copy.rename(released_copy.with_name("moved"))
    (moved / PAGE_FILE).write_text(page)
    assert page_findings(moved, examined) == ([], ["report.html is the page of the run, then called run"])
