"""What publications are to hold, by the configuration: tensors by name, shape and type, and values in range."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from fedmm_secure.config import Config
from fedmm_secure.config.sections import QuantizerConfig
from privacy.arrays import Array
from privacy.mechanisms.grid import Grid

Expected = Mapping[str, tuple[tuple[int, ...], str]]  # shape and type by name; -n is a length of n at most
OFF_GRID = (
    "values are not multiples of the public grid's step, or more than users and noise come to: no discrete noise was "
    "added to them"
)
# numbers of a pair that each feature group of a released model has
NUMBERS_OF_GROUP: Mapping[str, int] = {"code_affinity": 3, "scores": 12, "counts": 9, "recency": 6, "shared": 8}
WORDS = "global_codebook.codewords"


def model_arrays(config: Config) -> Expected:
    """Tensors of the RQ-VAE's state."""
    quantizer = config.quantizer
    dim = config.embedding.private.dim if config.private_embedding else config.embedding.dim
    found = _layers("encoder", [dim, quantizer.hidden_dim, quantizer.latent_dim], 2)
    found |= _layers("decoder", [quantizer.latent_dim, quantizer.hidden_dim, dim], 2)
    for name, codes in (("global", quantizer.global_codes), ("local", quantizer.local_codes)):
        found[f"{name}_codebook.codewords"] = (codes, quantizer.latent_dim), "float32"
    return found


def ctr_arrays(config: Config, n_items: int) -> Expected:
    """Tensors of a released CTR model's state: the network's, and the standardisation of its numbers."""
    ctr, sizes = config.ctr, cardinalities(config, n_items)
    numbers, rows = sum(NUMBERS_OF_GROUP.get(group, 0) for group in ctr.features), max(sum(sizes), 1)
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "centre": ((numbers,), "float64"),
        "spread": ((numbers,), "float64"),
        "network.offsets": ((len(sizes),), "int64"),
        "network.first.weight": ((rows, 1), "float32"),
        "network.first_numbers": ((numbers,), "float32"),
        "network.bias": ((1,), "float32"),
    }
    if ctr.model == "logistic":
        return found
    width = ctr.dim * len(sizes) + (ctr.dim * numbers if ctr.model == "deepfm" else numbers)
    found["network.embedding.weight"] = (rows, ctr.dim), "float32"
    found["network.number_vectors"] = (numbers, ctr.dim), "float32"
    found |= _layers("network.deep", [width, *ctr.hidden], 3)  # a linear layer, its activation, its dropout
    last = ctr.hidden[-1] if ctr.hidden else width
    if ctr.model == "dcnv2":
        found |= _layers("network.crosses", [width, width, width], 1)
        last += width
    found["network.head.weight"], found["network.head.bias"] = ((1, last), "float32"), ((1,), "float32")
    return found


def _layers(name: str, widths: list[int], every: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Linear layers of a sequence, ``every`` so many of its members one."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for index, (before, after) in enumerate(pairwise(widths)):
        found[f"{name}.{every * index}.weight"] = (after, before), "float32"
        found[f"{name}.{every * index}.bias"] = (after,), "float32"
    return found


def cardinalities(config: Config, n_items: int) -> list[int]:
    """Values of each category of a pair."""
    features, quantizer = set(config.ctr.features), config.quantizer
    codes = [quantizer.global_codes, quantizer.local_codes]
    sides = len({"user_codes", "item_codes"} & features)
    return ([n_items] if "item_id" in features else []) + codes * sides


def codes_problem(codes: Array, quantizer: QuantizerConfig) -> str | None:
    """What is wrong with pairs of codes ``(n, 2)``; None if nothing."""
    if not ((codes >= 0) & (codes < [quantizer.global_codes, quantizer.local_codes])).all():
        return "codes are out of range"
    return None


def on_grid(values: Array, grid: Grid, most: float) -> bool:
    """Whether all values are multiples of a grid's step, to the last bit, and no more than ``most`` of them."""
    if not np.isfinite(values).all():
        return False
    integers = np.rint(values / grid.step)
    if not (np.abs(integers) <= min(most, 2.0**53 - 1.0)).all():
        return False
    return grid.real(integers.astype(np.int64)).tobytes() == values.tobytes()  # 0 has a sign, which no integer has
