"""What a page shows of a run's global codebook: its words, and how many of what is coded are on each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmm_secure.config import Config
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.federation.transcript import INDEX, PUBLICATION, read_index, read_record
from fedmm_secure.guarantee.expected_arrays import WORDS, model_arrays
from fedmm_secure.guarantee.published_arrays import PublicationError, read_numpy, read_tensors
from fedmm_secure.guarantee.stages import ITEM_CODES, MODEL, seed_stage
from fedmm_secure.results.artefacts import read_codes
from fedmm_secure.storage.layout import CODES, RunDirectory
from privacy.foreign import ForeignDirectory


@dataclass(frozen=True)
class UsedCodebook:
    """The global codebook of the first seed.

    Attributes:
        words: codewords ``(global_codes, latent_dim)``; None where nobody is shown them.
        shares: by market, the share of what is coded on each code ``(global_codes,)``.
    """

    words: FloatArray | None
    shares: Mapping[str, FloatArray]


def codebook_of(directory: Path, config: Config, metrics: Mapping[str, Any]) -> UsedCodebook:
    """As published where there is a budget, and items alone; without one as the owner has it, users too.

    Raises:
        InputError, ValueError: a file is not what a run leaves.
    """
    if config.privacy.epsilon is None:
        return _owners(directory, config, list(metrics["markets"]))
    return _published(directory, config, {name: int(found["n_items"]) for name, found in metrics["markets"].items()})


def coded(config: Config) -> str:
    """What the shares are of, in words."""
    return "users and items" if config.privacy.epsilon is None else "items"


def _published(directory: Path, config: Config, n_items: Mapping[str, int]) -> UsedCodebook:
    """From the transcript alone; nothing under ``protect: federation``, which publishes neither model nor codes."""
    transcript = RunDirectory(directory).transcript
    if not (transcript / INDEX).is_file():
        return UsedCodebook(None, {})
    model, codes = (seed_stage(stage, config.seed[0]) for stage in (MODEL, ITEM_CODES))
    words, shares = None, {}
    for record in read_index(transcript):
        if record.kind != PUBLICATION or record.sender not in n_items:
            continue
        if record.stage == model:  # every market's has the same words
            words = read_tensors(read_record(transcript, record), model_arrays(config))[WORDS].astype(np.float64)
        elif record.stage == codes:
            expected = {"codes": ((n_items[record.sender], 2), "int64")}
            found = read_numpy(read_record(transcript, record), expected, single=True)
            shares[record.sender] = _share(found["codes"][:, 0], config)
    return UsedCodebook(words, {market: shares[market] for market in sorted(shares)})


def _owners(directory: Path, config: Config, markets: Collection[str]) -> UsedCodebook:
    run = ForeignDirectory(directory)
    name = RunDirectory().quantizer(next(iter(markets)), config.seed[0]).as_posix()
    words = read_tensors(run.bytes(name), model_arrays(config))[WORDS].astype(np.float64) if run.has(name) else None
    shares = {}
    for path in sorted((directory / CODES).glob("*.parquet")):
        codes = read_codes(directory, RunDirectory().codes(path.stem).as_posix())
        found = codes.loc[codes["seed"] == config.seed[0], "global_code"]
        shares[path.stem] = _share(found.to_numpy(dtype=np.int64), config)
    return UsedCodebook(words, shares)


def _share(codes: IntArray, config: Config) -> FloatArray:
    count = config.quantizer.global_codes
    if not ((codes >= 0) & (codes < count)).all():
        raise PublicationError("codes are out of range")
    return np.asarray(np.bincount(codes, minlength=count) / max(len(codes), 1), dtype=np.float64)
