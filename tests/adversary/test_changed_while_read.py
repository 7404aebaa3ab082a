"""Whoever can write into a run's directory while a report on it is made: what is stated is read before it is verified.

The directory may be shared, or on a disk of its owner. ``build_document`` reads configuration and metrics, then
verification reads them again, and takes the first for verified by the second.
"""

import json

import pytest

import experiments.compliance.build as build
from experiments.compliance.document import Declarations
from privacy.files import json_bytes
from privacy.foreign import ForeignFileError, held_still, read_bytes


def forge(path):
    """The metrics with an ε of .5 for every view of every market, among 100 times as many users."""
    found = json.loads(path.read_text(encoding="utf-8"))
    for market, views in found["privacy"]["markets"].items():
        found["markets"][market]["n_users"] *= 100
        for view in ("market", "collusion", "consumer", "release"):
            views[view]["epsilon"] = views["with_earlier_runs"][view]["epsilon"] = 0.5
    path.write_bytes(json_bytes(found))


def test_what_a_report_states_is_what_was_verified(released_copy, monkeypatch):
    path = released_copy / "metrics.json"
    true, examine = path.read_bytes(), build.examine_run

    def as_the_owner_puts_it_back(directory):
        path.write_bytes(true)  # between the two readings
        return examine(directory)

    forge(path)
    monkeypatch.setattr(build, "examine_run", as_the_owner_puts_it_back)
    said = Declarations(signer=None, trusted=[], sole_run=True, max_epsilon=1.0, max_delta=None)
    account = released_copy.parent / "privacy.account"
    with pytest.raises(ForeignFileError, match="was changed while the run was read"):
        build.build_document(released_copy, said, account=account)


def test_two_readings_of_one_file_agree_or_are_refused(tmp_path):
    """The mechanism: without it both are believed."""
    path, outside = tmp_path / "run" / "file", tmp_path / "file"
    path.parent.mkdir()

    def readings(where):
        for text in (b"one", b"two"):
            where.write_bytes(text)
            yield read_bytes(where)

    assert list(readings(path)) == [b"one", b"two"]  # the attack works
    with held_still(path.parent):
        assert list(readings(outside)) == [b"one", b"two"]  # another directory's
        with held_still(path.parent), pytest.raises(ForeignFileError, match="was changed while"):
            list(readings(path))
        with pytest.raises(ForeignFileError, match="was changed while"):
            read_bytes(path.parent / ".." / "run" / "file")
    assert list(readings(path)) == [b"one", b"two"]
