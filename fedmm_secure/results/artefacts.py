"""What a run leaves beside its metrics: codes, models, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.foreign.formats import parse_table, parse_tensors
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage.encoding import tensors_bytes
from fedmm_secure.storage.files import write_parquet
from fedmm_secure.storage.layout import QuantizerKind, RunDirectory
from privacy.files import write_atomic
from privacy.foreign import ForeignDirectory

CODE_COLUMNS = ("id", "global_code", "local_code", "kind", "seed")


def read_codes(directory: Path, name: str, columns: Sequence[str] = CODE_COLUMNS) -> pd.DataFrame:
    """A market's codes, as ``save_codes`` or somebody else wrote them.

    Raises:
        ForeignFileError: no such table.
    """
    return parse_table(ForeignDirectory(directory).bytes(name), directory / name, columns)


def load_state(model: torch.nn.Module, data: bytes, path: Path) -> None:
    """Give a model the tensors of a file of a run directory.

    Raises:
        ForeignFileError: not tensors.
        RunDirectoryError: they are those of another model.
    """
    tensors = parse_tensors(data, path)
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise RunDirectoryError(f"{path}: holds another model: {str(error).splitlines()[0][:200]}") from error


def save_quantizer(model: RQVAE, directory: Path, market: str, seed: int, *, kind: QuantizerKind = "quantizer") -> None:
    """Keep an RQ-VAE as ``models/<market>/<kind>-<seed>.pt``."""
    write_atomic(RunDirectory(directory).quantizer(market, seed, kind=kind), tensors_bytes(model.state_dict()))


def save_codes(
    config: Config,
    directory: Path,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
) -> None:
    """One Parquet file a market: kind, id, seed, global and local code. User codes stay in the market."""
    for name, prepared in markets.items():
        frames = []
        for seed in config.seed:
            embedding = embeddings[name]
            codes = assign_codes(quantizers[seed][name], embedding.user_factors_, embedding.item_factors_)
            for kind, ids, found in (
                ("user", prepared.market.user_ids, codes.user),
                ("item", prepared.market.item_ids, codes.item),
            ):
                frame = pd.DataFrame({"id": ids, "global_code": found[:, 0], "local_code": found[:, 1]})
                frames.append(frame.assign(kind=kind, seed=seed))
        frame = pd.concat(frames, ignore_index=True)
        frame.attrs = {"user_codes": "stay in the market: no central mechanism protects a user's own code"}
        write_parquet(RunDirectory(directory).codes(name), frame)


def save_predictions(
    directory: Path,
    markets: Mapping[str, PreparedMarket],
    predictions: Mapping[str, Mapping[str, list[np.ndarray]]],
) -> None:
    """Test candidates with each model's probability, one column per model and seed position.

    ``item`` is an index in the catalogue, -1 for an item outside.
    """
    for name, prepared in markets.items():
        columns: dict[str, Any] = {
            "user": prepared.whole.test.user,
            "item": prepared.test_items,
            "label": prepared.whole.test.label,
        }
        for model, by_seed in predictions[name].items():
            columns |= {f"{model}/{position}": values for position, values in enumerate(by_seed)}
        write_parquet(RunDirectory(directory).predictions(name), pd.DataFrame(columns))
