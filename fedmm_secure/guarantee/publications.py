"""What publications may hold: every array by name, shape and type; nothing else may leave under their names."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping

import numpy as np
import torch

from fedmm_secure.config import Config
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, ITEM_CODES, MODEL, PUBLISHING, USER_CODES
from privacy.accounting.ledger import stage_group

_Shape = tuple[int, ...]


def publication_problem(stage: str, data: bytes, config: Config, n_users: int, n_items: int) -> str | None:
    """What a publication holds that it must not: a row per user, or something no stage publishes; None if nothing."""
    group = stage_group(stage)
    if group not in PUBLISHING:
        return f"{stage} is not a stage that publishes anything"
    try:
        found = _published_shapes(group, data)
    except (ValueError, KeyError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        return f"{stage} cannot be read: {error}"
    expected = _expected_shapes(group, found, config, n_users, n_items)
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            return f"{stage}: {name} of shape {found.get(name)} where {expected.get(name)} was expected"
    return None


def _published_shapes(group: str, data: bytes) -> dict[str, _Shape]:
    stream = io.BytesIO(data)
    if group == ITEM_CODES:
        return {"codes": np.load(stream, allow_pickle=False).shape}
    if group in (MODEL, CTR):
        state = torch.load(stream, weights_only=True)
        tensors = state["network"] if group == CTR else state
        wanted = ("first.weight",) if group == CTR else ("global_codebook.codewords", "local_codebook.codewords")
        return {name: tuple(tensors[name].shape) for name in wanted}
    with np.load(stream, allow_pickle=False) as arrays:
        return {name: arrays[name].shape for name in arrays.files}


def _expected_shapes(
    group: str, found: Mapping[str, _Shape], config: Config, n_users: int, n_items: int
) -> dict[str, _Shape]:
    quantizer, features = config.quantizer, set(config.ctr.features)
    chosen, rank = (*found.get("factors", ()), 0, 0)[:2]
    table = (quantizer.global_codes + quantizer.local_codes) * len({"user_codes", "item_codes"} & features)
    table += n_items if "item_id" in features else 0
    shapes: dict[str, dict[str, _Shape]] = {
        COUNTS: {"values": (n_items,), "noise": ()},
        EMBEDDING: {"items": (chosen,), "factors": (chosen, rank), "eigenvalues": (rank,), "noise_edge": ()},
        ITEM_CODES: {"codes": (n_items, 2)},
        USER_CODES: {"codes": (n_users, 2)},
        MODEL: {
            "global_codebook.codewords": (quantizer.global_codes, quantizer.latent_dim),
            "local_codebook.codewords": (quantizer.local_codes, quantizer.latent_dim),
        },
        CTR: {"first.weight": (max(table, 1), 1)},
    }
    return shapes[group]
