"""Membership inference, and inversion of embeddings, on a recommender that somebody else wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attacks.handlers.handler import Handler
from attacks.inversion.embeddings import invert_embeddings
from attacks.membership.evaluate import infer
from attacks.membership.foreign import foreign_shadows
from attacks.membership.shadow import Progress
from attacks.membership.units import Unit
from experiments.assessment.membership import membership_result
from experiments.assessment.records import ATTACKS
from experiments.assessment.statements import Results
from experiments.assessment.truth import popularity
from experiments.runs.configuration import readers_data, resolve
from experiments.runs.markets import choose_market
from fedmm_secure.data.market import history_matrix
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_foreign_config
from privacy.files import write_json
from privacy.json_text import finite

_KNOWN = "embeddings and rows of half of the users; popularity of items in the market's training rows"


def rows_of(source: str, folder: Path | None, market: str | None) -> PreparedMarket:
    """A market's rows: of a run, from the reader's ``folder``, or of a configuration; by default the smallest market.

    Raises:
        ConfigError: no such run, configuration or market.
    """
    run = RunDirectory(Path(source))
    data = readers_data(read_foreign_config(run.path).data, folder) if run.config.is_file() else resolve(source).data
    markets = prepare_markets(data)
    return markets[choose_market(market, {name: found.market.n_users for name, found in markets.items()})]


def attack_model(
    handler: Handler,
    prepared: PreparedMarket,
    units: Sequence[Unit],
    n_shadows: int,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Results:
    """Fit somebody else's model on halves of a market's rows and users, and attack it.

    Raises:
        HandlerError: the model cannot be fitted or asked.
    """
    name, known = prepared.market.name, ATTACKS["membership"].prior_knowledge
    membership = []
    for unit in units:
        shadows = foreign_shadows(
            handler, prepared, unit, n_shadows, workers=workers or os.cpu_count() or 1, progress=progress
        )
        found = [membership_result(name, unit, inference, None, None, 1) for inference in infer(shadows)]
        membership += [{**result, "prior_knowledge": known} for result in found]
    return {"membership": membership, "histories": _inverted(handler, prepared)}


def write_found(out: Path, handler: Handler, prepared: PreparedMarket, found: Results) -> Path:
    """Keep what was found of a model in ``out``; the file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{prepared.market.name}.json"
    write_json(path, finite({"model": handler.path.name, "market": prepared.market.name, "results": found}))
    return path


def _inverted(handler: Handler, prepared: PreparedMarket) -> list[dict[str, Any]]:
    """Histories out of the embeddings of the model fitted on all rows; nothing where it has none."""
    market, train = prepared.market, prepared.split.train
    nobody = np.zeros(0, dtype=np.int64)
    embeddings = handler.ask(market, train, nobody, nobody).embeddings
    if embeddings is None:
        return []
    history = history_matrix(market, train).toarray() > 0
    rng = numpy_generator("attack", "embeddings", market.name)
    result = invert_embeddings(embeddings, history, popularity(prepared), rng)
    return [
        {
            "market": market.name,
            "target": handler.path.stem,
            "view": "profile",
            "prior_knowledge": _KNOWN,
            **asdict(result),
        }
    ]
