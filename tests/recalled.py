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

from experiments.verification import files, meter
from experiments.verification import publications as published
from fedmm_secure.config import Config
from fedmm_secure.guarantee import publications
from privacy.aggregation.identities import Card


@contextmanager
def recalling() -> Iterator[None]:
    """Inside, verification looks for what it found before in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Card, "verify", _kept(Card.verify))
        patch.setattr(files, "yaml_text", _kept(files.yaml_text))
        for name in ("meter_findings", "response_findings"):
            patch.setattr(meter, name, _kept(getattr(meter, name)))
        for name in ("_codes", "tensors_bytes", "parse_table"):
            patch.setattr(published, name, _kept(getattr(published, name)))
        for module in (publications, published):
            patch.setattr(module, "read_tensors", _kept(module.read_tensors))
        yield


def _kept(compute: Callable[..., Any]) -> Callable[..., Any]:
    answers: dict[bytes, Any] = {}

    @wraps(compute)
    def answer(*arguments: Any, **named: Any) -> Any:
        digest = hashlib.blake2b(digest_size=32)
        for part in _parts((arguments, named)):
            digest.update(len(part).to_bytes(8, "big") + part)
        asked = digest.digest()
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
