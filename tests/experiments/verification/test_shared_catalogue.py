"""A run whose markets share a catalogue: verified as it is, and red for whatever of its sums was changed."""

import shutil

import numpy as np
import pytest

from experiments.verification import verify_run
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from tests.fedmm_secure.federation.test_shared_catalogue import private_settings
from tests.forgery import Forgery

COUNT_METER, EMBEDDING = f"{SHARED_COUNTS}/0000-meter-m0.bin", "embedding/0000-publication-m0.bin"


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shared") / "run"
    config = private_settings()
    run_directory.create(directory, config)
    run_pipeline(config, prepare_markets(config.data), directory)
    return directory


@pytest.fixture
def forged(shared_run, tmp_path):
    return Forgery(shutil.copytree(shared_run, tmp_path / "run"))


def texts(forgery):
    forgery.finish(owner=True)
    return "\n".join(f"{finding.where}: {finding.what}" for finding in verify_run(forgery.directory))


def test_it_verifies(shared_run):
    assert verify_run(shared_run) == []


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_noise_that_was_left_out_or_halved_is_read_off_the_meter(forged, factor):
    values = np.frombuffer(forged.read(COUNT_METER), "<i8")
    forged.replace(COUNT_METER, np.rint(factor * values).astype("<i8").tobytes())
    assert f"market m0, {SHARED_COUNTS}: noise meter: size" in texts(forged)


def test_noise_of_another_market_is_no_noise_of_ones_own(forged):
    forged.replace(COUNT_METER, forged.read(f"{SHARED_COUNTS}/0000-meter-m1.bin"))
    assert "occur more than once" in texts(forged)


def test_a_sum_that_was_never_charged_is_missed(forged):
    forged.drop("m0", lambda line: line.kind == "charge" and line.stage == SHARED_GRAM)
    assert f"{SHARED_GRAM}, round 0 is missing: planned, and neither charged nor noted" in texts(forged)


def test_a_sum_is_that_of_the_updates(forged):
    file = f"{SHARED_GRAM}/0000-sum-server.bin"
    values = np.frombuffer(forged.read(file), "<i8").copy()
    values[0] += 1
    forged.replace(file, values.tobytes())
    found = texts(forged)
    assert "the sum in the clear is not that of the markets' own updates" in found


@pytest.mark.parametrize("name", ["factors", "shared_count", "shared_when", "weights", "position"])
def test_what_is_published_follows_from_the_sums(forged, name):
    arrays = dict(read_arrays(forged.read(EMBEDDING)))
    changed = arrays[name].copy()
    changed[np.flatnonzero(changed.reshape(len(changed), -1).any(axis=1))[-1]] += 1
    forged.replace(EMBEDDING, arrays_bytes({**arrays, name: changed}))
    found = texts(forged)
    assert "not what the recorded sums give for market m0" in found or "no such positions" in found


def test_to_the_last_digit(forged):
    arrays = dict(read_arrays(forged.read(EMBEDDING)))
    arrays["shared_count"] = np.nextafter(arrays["shared_count"], np.inf)
    forged.replace(EMBEDDING, arrays_bytes(arrays))
    assert "shared_count: not what the recorded sums give for market m0" in texts(forged)
