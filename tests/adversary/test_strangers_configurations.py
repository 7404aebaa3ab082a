"""What a stranger's ``config.yaml`` costs its reader: ``recommend``, ``join`` and ``attack`` make what it names.

A market of a hundred million users, a network of a hundred million columns, a thousand million passes over the rows.
"""

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from annotated_types import Interval, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedmm_secure.config import Config, EmbeddingConfig, SyntheticSpec
from fedmm_secure.config.choices import MAX_PASSES, MOST_PAIRS, MOST_ROWS
from fedmm_secure.data.synthetic import synthesize_one
from fedmm_secure.errors import ConfigError
from fedmm_secure.quantization.build import initial_model
from tests.conftest import tiny

ATTACKS = [
    {"data": {"synthetic": {"users": 10**9}}},
    {"data": {"synthetic": {"items": 10**9}}},
    {"data": {"synthetic": {"users": 5_000_000, "items": 1_000_000}}},
    {"data": {"synthetic": {"users": 1_000_000, "items": 10_000, "mean_interactions": 5000}}},
    {"data": {"synthetic": {"shared_prototypes": 10**9}}},
    {"quantizer": {"hidden_dim": 10**9}},
    {"ctr": {"hidden": [10**6, 10**6]}},
    {"ctr": {"hidden": [64] * 1000}},
    {"federation": {"local_epochs": 10**9}},
    {"federation": {"local_epochs": 1000, "rounds": 10_000}},
    {"embedding": {"private": {"max_items": 10**9}}},
    {"embedding": {"kind": "lightgcn", "epochs": 10**9}},
    {"ctr": {"baselines": ["local-ids"] * 1000}},
]


@pytest.mark.parametrize("sections", ATTACKS, ids=lambda sections: json.dumps(sections)[:60])
def test_what_a_run_costs_its_reader_is_bounded(sections):
    with pytest.raises(ConfigError) as found:
        tiny(**sections)
    assert "\n" not in str(found.value)


def test_a_run_makes_what_its_configuration_names():
    """The attack at a size that a test can pay: ten times the number, ten times the work, and nobody asks."""
    small, large = (synthesize_one(SyntheticSpec(users=users, items=40), 0).market.n_rows for users in (40, 400))
    assert large > 5 * small
    narrow, wide = (
        sum(weights.numel() for weights in initial_model(tiny(quantizer={"hidden_dim": width}), 0).parameters())
        for width in (16, 160)
    )
    assert wide > 5 * narrow


def test_a_million_users_are_within_the_bounds():
    spec = SyntheticSpec(markets=3, users=1_000_000, items=30_000, mean_interactions=30)
    assert spec.markets * spec.users * spec.items <= MOST_PAIRS
    assert spec.markets * spec.users * spec.mean_interactions <= MOST_ROWS
    assert tiny(federation={"rounds": 100, "local_epochs": 100}).federation.local_epochs * 100 <= MAX_PASSES
    assert EmbeddingConfig(private={"max_items": 100_000}).private.max_items == 100_000


# -- and of every key that comes: no number without an upper bound, and no list without a most ------------------------


def unbounded(model: type[BaseModel], prefix: str = ""):
    """Keys of a section, and of those in it, that name any size."""
    for name, field in model.model_fields.items():
        yield from (f"{prefix}{name}" for _ in _loose(field.annotation, field.metadata))
        for inner in _sections(field.annotation):
            yield from unbounded(inner, f"{prefix}{name}.")


def _sections(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections(part)]


def _loose(annotation, metadata):
    """Once for each part of a type that has no bound."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        yield from _loose(parts[0], [*metadata, *_flat(annotation.__metadata__)])
    elif annotation in (int, float):
        if not any(isinstance(part, Le | Lt) for part in metadata):
            yield annotation
    elif origin in (tuple, list):
        if not any(isinstance(part, MaxLen) for part in metadata):
            yield annotation
        yield from _loose(parts[0], [])
    elif origin is not dict and origin is not Literal:  # entries of a mapping are texts in a file, which is bounded
        for part in parts:
            yield from _loose(part, metadata)


def _flat(metadata):
    for part in metadata:
        if isinstance(part, FieldInfo):
            yield from part.metadata
        elif isinstance(part, Interval):
            yield from part
        else:
            yield part


def test_no_key_of_a_configuration_is_without_a_bound():
    assert list(unbounded(Config)) == []


def test_keys_without_a_bound_are_found():
    class Inner(BaseModel):
        count: int
        path: Path

    class Loose(BaseModel):
        share: float | None = None
        names: tuple[str, ...] = ()
        inner: dict[str, Inner] = {}
        kind: Literal["a", "b"] = "a"

    assert list(unbounded(Loose)) == ["share", "names", "inner.count"]
