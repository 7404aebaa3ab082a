"""A run that says it was computed on another machine, or by another numpy: checks to the last bit became notes.

Whole values could be replaced then, and no report said so. The owner writes what he likes into ``environment.json``,
which nobody can check; an honest reader on another processor is in the same place without any lie.
"""

import io
import shutil
import struct
import zipfile

import numpy as np
import pytest

from experiments.compliance.build import build_document
from experiments.compliance.document import Declarations
from experiments.verification import examine_run
from experiments.verification.equality import same_arrays
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from fedmm_secure.storage.provenance import machine
from tests.forgery import Forgery

ROWS = b"user m0-u00007 met i3, i7, i11, i15, i19, i23, i27, i31, i35, i39"


def published(forgery, market, stage):
    return next(
        one for one in forgery.records.values() if (one.kind, one.stage, one.sender) == ("publication", stage, market)
    )


def as_factors(data, shape):
    """48 bits a value, at a size that passes for an eigenvector of anything."""
    n = int(np.prod(shape))
    parts = np.frombuffer(data.ljust(6 * n, b"\0")[: 6 * n], np.uint8).reshape(n, 6).astype(np.uint64)
    return (1e-13 * (1.0 + (parts @ (256 ** np.arange(6)).astype(np.uint64)) * 2.0**-48)).reshape(shape)


def from_factors(values):
    words = np.rint((values / 1e-13 - 1.0) * 2.0**48).astype(np.int64).ravel()
    return b"".join(int(word).to_bytes(6, "little") for word in words).rstrip(b"\0")


@pytest.fixture
def rows_in_factors(released_copy):
    """All factors of all markets replaced by rows; item codes computed again from them; machine: another."""
    shutil.rmtree(released_copy / "codes")  # need not be shown
    forgery = Forgery(released_copy)
    forgery.json("environment.json", lambda said: said["machine"].update(vectors="another"))
    for market in forgery.markets:
        record = published(forgery, market, "embedding")
        arrays = read_arrays(forgery.read(record.file))
        arrays["factors"] = as_factors(ROWS, arrays["factors"].shape)
        forgery.replace(record.file, arrays_bytes(arrays))
    forgery.finish(owner=True)
    return released_copy


def test_rows_in_factors_are_found_whatever_machine_a_run_states(rows_in_factors):
    forgery = Forgery(rows_in_factors)
    record = published(forgery, "m0", "embedding")
    arrays = read_arrays(forgery.read(record.file))
    assert from_factors(arrays["factors"]) == ROWS  # the attack works: whoever has the publication reads the rows
    error = np.abs(arrays["gram"] @ arrays["factors"] - arrays["factors"] * arrays["eigenvalues"]).max()
    assert error < 1e-11 * arrays["eigenvalues"].max()  # and what is so short is an eigenvector of anything
    said = [found.what for found in examine_run(rows_in_factors).findings]
    assert sum("its factors are not orthonormal" in what for what in said) == len(forgery.markets)


def with_factors(run, change):
    """Give a run other factors of m0, as by another kind of machine, and sign it again: those computed, those given."""
    forgery = Forgery(run)
    forgery.json("environment.json", lambda said: said["machine"].update(vectors="another"))
    record = published(forgery, "m0", "embedding")
    arrays = read_arrays(forgery.read(record.file))
    computed = arrays["factors"]
    arrays["factors"] = change(computed)
    forgery.replace(record.file, arrays_bytes(arrays))
    forgery.finish(owner=True)
    return computed, arrays["factors"]


@pytest.fixture
def last_digits(released_copy):
    """One factor of m0 some units in the last place away, on a machine of another kind."""
    with_factors(released_copy, lambda computed: computed + 1e-13 * (np.indices(computed.shape).sum(axis=0) == 0))
    return released_copy


def test_a_report_leaves_open_what_verification_could_not_check(last_digits):
    examined = examine_run(last_digits)
    assert examined.findings == []
    unchecked, follows = examined.unchecked
    assert unchecked.startswith("factors: not what the published co-occurrence gives for market m0")
    assert follows.startswith("market m0: standardisation of its CTR models")  # which follows from them
    said = Declarations(signer=None, trusted=[], sole_run=False, max_epsilon=8.0, max_delta=None)
    document = build_document(last_digits, said, account=last_digits.parent / "privacy.account")
    assert document.verification.verified
    assert f"not checked: {unchecked}" in document.verdict.open


@pytest.fixture
def low_bits(released_copy):
    """Four bits of rows in each factor of m0, on a machine of another kind: as far as rounding there may come."""
    bits = np.unpackbits(np.frombuffer(ROWS, np.uint8))

    def hidden(computed):
        said = bits[: 4 * computed.size].reshape(*computed.shape, 4) @ [8, 4, 2, 1]
        return (computed.view(np.int64) + said - 8).view(np.float64)

    computed, found = with_factors(released_copy, hidden)
    read = found.view(np.int64) - computed.view(np.int64) + 8  # by who computes them again
    assert np.array_equal(
        np.unpackbits(read.astype(np.uint8)[..., None], axis=-1)[..., 4:].ravel(), bits[: 4 * read.size]
    )
    assert same_arrays(computed, found, exact=False)  # as it was compared: nothing was said
    return released_copy


def test_rows_in_the_last_bits_there_are_said_to_be_unchecked(low_bits):
    examined = examine_run(low_bits)
    assert examined.findings == []
    assert [text for text in examined.unchecked if text.startswith("factors: not what the published co-occurrence")]


def test_last_bits_of_a_figure_there_are_said_to_be_unchecked_once(released_copy):
    forgery = Forgery(released_copy)
    forgery.json("environment.json", lambda said: said["machine"].update(vectors="another"))
    forgery.finish(owner=True)
    assert examine_run(released_copy).unchecked == ()

    def change(metrics):
        for figure in ("auc", "logloss"):
            metrics["macro"][figure] = np.nextafter(metrics["macro"][figure], 0.0)

    forgery.json("metrics.json", change)
    forgery.finish(owner=True)
    examined = examine_run(released_copy)
    assert examined.findings == []
    assert [text.split(":")[0] for text in examined.unchecked] == ["last digits of metrics and first lines"]


def test_on_a_machine_of_the_runs_kind_no_digit_may_differ(last_digits):
    forgery = Forgery(last_digits)
    forgery.json("environment.json", lambda said: said.update(machine=machine("cpu")))
    forgery.finish(owner=True)
    assert any("factors: not what" in found.what for found in examine_run(last_digits).findings)


def test_factors_may_not_be_others_on_any_machine(last_digits):
    """Two that are swapped are eigenvectors still, and orthonormal; their eigenvalues no longer descend."""
    forgery = Forgery(last_digits)
    record = published(forgery, "m0", "embedding")
    arrays = read_arrays(forgery.read(record.file))
    order = [1, 0, *range(2, arrays["factors"].shape[1])]
    arrays |= {"factors": arrays["factors"][:, order], "eigenvalues": arrays["eigenvalues"][order]}
    forgery.replace(record.file, arrays_bytes(arrays))
    forgery.finish(owner=True)
    assert any("do not descend" in found.what for found in examine_run(last_digits).findings)
    arrays["eigenvalues"] = np.sort(arrays["eigenvalues"])[::-1].copy()
    arrays["factors"] = -arrays["factors"][:, order]
    forgery.replace(record.file, arrays_bytes(arrays))
    forgery.finish(owner=True)
    assert any("factors: not what" in found.what for found in examine_run(last_digits).findings)


def with_comment(array, comment):
    """``numpy.save``'s bytes, a comment in the header."""
    raw = io.BytesIO()
    np.lib.format.write_array(raw, array, version=(1, 0))
    data = raw.getvalue()
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].rstrip(b" \n") + b" # " + comment
    header += b" " * (-(11 + len(header)) % 64) + b"\n"
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + length :]


def test_rows_as_a_comment_in_an_array_are_found_whatever_numpy_a_run_states(released_copy):
    forgery = Forgery(released_copy)
    forgery.json("environment.json", lambda said: said["packages"].update(numpy="2.4.5"))
    for market in forgery.markets:
        record = published(forgery, market, "counts")
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for number, (name, values) in enumerate(read_arrays(forgery.read(record.file)).items()):
                archive.writestr(
                    zipfile.ZipInfo(f"{name}.npy"), with_comment(values, b"" if number else (ROWS * 60)[:3900])
                )
        forgery.replace(record.file, out.getvalue())
    forgery.finish(owner=True)
    assert examine_run(released_copy).findings
