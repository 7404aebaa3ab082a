"""What tells one kind of machine from another."""

import pytest

from fedmm_secure.storage.provenance import computing_kind


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
