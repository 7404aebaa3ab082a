"""What verification makes of the same bytes, kept for the length of a test process.

Tests change one file of a run and verify all of it, hundreds of times. Each function here depends on nothing but its
arguments, which are what its answer is kept by; what was refused is refused anew. Arrays are handed out as copies.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.compliance import build
from experiments.verification import Examination, files, meter
from experiments.verification import publications as published
from fedmm_secure.config import Config
from fedmm_secure.guarantee import publications
from fedmm_secure.storage import run_directory
from privacy.accounting import ledger
from privacy.aggregation.identities import Card
from tests.malicious import fingerprint

BESIDE = ("state/", "attacks/", "audit/", "compliance.", "report.html", "log.jsonl")  # whose names alone are looked at


@contextmanager
def recalling() -> Iterator[None]:
    """Inside, verification looks for what it found before in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Card, "verify", _kept(Card.verify))
        patch.setattr(ledger, "parse_ledger", _kept(ledger.parse_ledger))
        for module in (run_directory, files):
            patch.setattr(module, "yaml_text", _kept(module.yaml_text, spell=repr))
        for name in ("meter_findings", "response_findings"):
            patch.setattr(meter, name, _kept(getattr(meter, name)))
        for name in ("_codes", "tensors_bytes", "parse_table"):
            patch.setattr(published, name, _kept(getattr(published, name)))
        for module in (publications, published):
            patch.setattr(module, "read_tensors", _kept(module.read_tensors))
        yield


@contextmanager
def examining_once() -> Iterator[None]:
    """Inside, documents of runs whose evidence is the same byte by byte rest on one examination, if it found nothing.

    For tests in which nothing changes how runs are examined.
    """
    examine, known = build.examine_run, dict[str, Examination]()

    def examined(directory: Path) -> Examination:
        files = fingerprint(directory).items()
        asked = repr(sorted((name, None if name.startswith(BESIDE) else digest) for name, digest in files))
        if asked in known:
            return known[asked]
        found = examine(directory)
        if not (found.findings or found.unchecked):  # which name the directory
            known[asked] = found
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "examine_run", examined)
        yield


def _spelled(asked: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in _parts(asked):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _kept(compute: Callable[..., Any], spell: Callable[[Any], str | bytes] = _spelled) -> Callable[..., Any]:
    answers: dict[str | bytes, Any] = {}

    @wraps(compute)
    def answer(*arguments: Any, **named: Any) -> Any:
        asked = spell((arguments, named))
        if asked not in answers:
            answers[asked] = compute(*arguments, **named)
        return _copied(answers[asked])

    return answer


def _parts(value: Any) -> Iterator[bytes]:
    """What makes a value, with its kind."""
    yield type(value).__name__.encode()
    if isinstance(value, bytes | memoryview):
        yield bytes(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, torch.Tensor):
        yield from _parts(value.numpy())
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _parts(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, Config):
        yield value.model_dump_json().encode()
    elif value is None or isinstance(value, str | int | float | Path | Card):
        yield repr(value).encode("utf-8", "surrogatepass")
    else:
        raise TypeError(f"nothing to keep an answer by: {type(value)}")


def _copied(answer: Any) -> Any:
    if isinstance(answer, np.ndarray | pd.DataFrame):
        return answer.copy()
    return {name: _copied(value) for name, value in answer.items()} if isinstance(answer, dict) else answer
