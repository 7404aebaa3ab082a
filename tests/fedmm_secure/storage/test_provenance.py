"""What tells one kind of machine from another."""

import os

import pytest

from fedmm_secure.storage.provenance import _STEERING, computing_kind


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS", "GLIBC_TUNABLES", "MKL_CBWR"]
)
def test_whatever_steers_a_library_makes_another_kind(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = computing_kind("cpu")
    monkeypatch.setenv("UNRELATED", "1")
    assert computing_kind("cpu") == before
    monkeypatch.setenv(name, "1")
    assert computing_kind("cpu") != before


def test_what_training_leaves_in_the_environment_makes_none(monkeypatch):
    """A run that goes on in the process that had trained was another machine's: each charge in hand was made twice."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before, environment = computing_kind("cpu"), set(os.environ)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor")  # as PyTorch sets it
    left = {name for name in os.environ if name.startswith(_STEERING)} - environment
    assert left == {"TORCHINDUCTOR_CACHE_DIR"}  # the attack works on all that steers a library by its name
    assert computing_kind("cpu") == before
