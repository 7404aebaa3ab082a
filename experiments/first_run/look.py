"""Read the files that a first configuration is about as a run will, and find what only their owner can decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dp_accounting import get_sigma_gaussian

from experiments.first_run.configuration import Discovery, SharedIds
from fedmm_secure.config import DataConfig, DiscoveryConfig, MarketFile, PrivacyConfig
from fedmm_secure.config.choices import BadRows
from fedmm_secure.config.privacy import SharesConfig
from fedmm_secure.data.discovery import FEWEST_ITEMS, worth_discovering
from fedmm_secure.data.faults import BadRowsError
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.market import Market
from fedmm_secure.data.prepare import PreparedMarket, prepare
from fedmm_secure.data.questions import Answers, OpenQuestion, UndecidedError
from fedmm_secure.data.same_rows import refuse_same, same_rows
from fedmm_secure.data.shared_users import shared_ids
from fedmm_secure.errors import DataError
from privacy.mechanisms.partition_selection import PartitionSelection

POOLS = (5, 3, 2, 1)  # training rows that an item needs to be measured on, the best first


@dataclass(frozen=True)
class Looked:
    """The files' markets, whole.

    Attributes:
        markets: by name.
        on_bad_rows: what was decided.
    """

    markets: Mapping[str, Market]
    on_bad_rows: BadRows


def read_all(
    root: Path, files: Mapping[str, MarketFile], answers: Answers, progress: Callable[[str, int, int], None]
) -> Looked:
    """All rows of all files.

    Raises:
        DataError: a file cannot be used, or two hold the same rows.
        UndecidedError: rows are bad, and nobody said whether to leave them out.
    """
    skip, markets = "skip" in answers.get("on_bad_rows", ()), {}
    for number, (name, file) in enumerate(files.items()):
        progress("reading files", number, len(files))
        try:
            markets[name] = load_market(file.located(root), name, on_bad_rows="skip" if skip else "error")
        except BadRowsError as error:
            without = _without(root, file, name) if error.good else None
            if without is not None:
                raise DataError(f"{error.found}; without them: {without}") from error
            if not error.good or answers.get("on_bad_rows"):
                raise DataError(error.text("--on-bad-rows skip")) from error
            text = f"{error.found}. Leave bad rows out (skip), or refuse the file (error)?"
            raise UndecidedError(OpenQuestion("on_bad_rows", text, ("skip", "error"))) from error
    progress("reading files", len(files), len(files))
    refuse_same(same_rows(markets.values(), {name: file.located(root).path for name, file in files.items()}))
    return Looked(markets, "skip" if skip else "error")


def _without(root: Path, file: MarketFile, name: str) -> DataError | None:
    """Why a file cannot be used even without its bad rows; ``None`` where it can."""
    try:
        load_market(file.located(root), name, on_bad_rows="skip")
    except DataError as error:
        return error
    return None


def decide_shared_users(markets: Mapping[str, Market], answers: Answers) -> SharedIds:
    """What ids mean that several markets have; raises ``UndecidedError``."""
    found = shared_ids({name: market.user_ids for name, market in markets.items()})
    if not found:
        return "refused"
    given = answers.get("shared_users", ())
    if "composed" in given:
        return "composed"
    if "distinct" in given:
        return "distinct"
    counts = ", ".join(f"{name} {count}" for name, count in found)
    text = (
        f"user ids that several markets have: {counts}. Are they the same people (composed: their ε adds up), or is "
        "it by accident, as with running numbers (distinct)?"
    )
    raise UndecidedError(OpenQuestion("shared_users", text, ("composed", "distinct")))


def decide_pool(markets: Mapping[str, Market], answers: Answers) -> tuple[int, dict[str, PreparedMarket]]:
    """Training rows that an item needs, and the markets as a run will have them.

    Raises:
        DataError: a market is too small whatever is chosen.
        UndecidedError: it is too small for the default.
    """
    given = [int(value) for value in answers.get("min_item_train", ())]
    if given:
        return given[0], _prepared(markets, given[0])
    problems: list[DataError] = []
    for least in POOLS:
        try:
            prepared = _prepared(markets, least)
        except DataError as error:
            problems.append(error)
            continue
        if not problems:
            return least, prepared
        raise UndecidedError(OpenQuestion("min_item_train", f"{problems[0]}. Lower it?", (str(least),)))
    raise DataError(f"{problems[-1]}; no value of it is low enough")


def _prepared(markets: Mapping[str, Market], least: int) -> dict[str, PreparedMarket]:
    placeholder = {name: MarketFile(path=Path(name)) for name in markets}
    config = DataConfig.model_validate({"markets": placeholder, "min_item_train": least})
    return {name: prepare(market, config).usable() for name, market in markets.items()}


def decide_catalogue(prepared: Mapping[str, PreparedMarket], answers: Answers, epsilon: float) -> Discovery:
    """Files where every market has one; otherwise a private discovery, as far as it can find enough.

    Raises:
        UndecidedError: it cannot; that all items are public is for their owner to say.
    """
    if all(found.catalogue.kind == "file" for found in prepared.values()):
        return "file"
    given = answers.get("catalogue", ())
    if "discovered" in given:
        return "discovered"
    if "declared" in given:
        return "declared"
    few = {name: count for name, found in prepared.items() if (count := _discoverable(found, epsilon)) < FEWEST_ITEMS}
    if not few:
        return "discovered"
    counts = ", ".join(f"{name} about {count}" for name, count in few.items())
    text = (
        f"few items have enough users to be found privately at ε = {epsilon:g} ({counts}; a run needs {FEWEST_ITEMS}). "
        "Give a file of public item ids beside each file (NAME.items.txt, one id a line), raise --epsilon, or vouch "
        "that the ids of all items in the rows are public (declared)"
    )
    raise UndecidedError(OpenQuestion("catalogue", text, ("declared", "discovered")))


def _discoverable(prepared: PreparedMarket, epsilon: float) -> int:
    """About how many items a private discovery would find; no budget is spent, and nothing of it is written."""
    shares, discovery = SharesConfig(), DiscoveryConfig()
    spent = (shares.catalogue, shares.counts, shares.embedding, shares.quantizer, shares.ctr)
    delta = PrivacyConfig().delta_for(prepared.market.n_users)
    total = get_sigma_gaussian(epsilon, delta * (1.0 - discovery.delta_share))
    noise = total * math.sqrt(sum(spent) / shares.catalogue)
    selection = PartitionSelection(discovery.items_per_user, noise, discovery.delta_share * delta)
    market, rows = prepared.whole.market, prepared.whole.split.train
    return int(np.count_nonzero(worth_discovering(market, rows, selection)))
