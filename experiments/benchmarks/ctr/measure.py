"""Samples a second of training a network beside FuxiCTR, of growing trees beside LightGBM, and at which AUC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from attacks.metrics import Estimate, mean_estimate
from experiments.benchmarks.ctr.worker import FUXICTR, LIGHTGBM, MissingLibraryError, TrainingRun, Worker
from experiments.presentation.steps import track
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import FeatureGroup, ModelKind
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.dataset import ExampleSource, Labelled, labelled
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.metrics import Interval, seed_interval
from fedmm_secure.ctr.models.base import Choices
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.build import family_of
from fedmm_secure.ctr.models.interactions import HEADS
from fedmm_secure.ctr.models.networks import CROSS_LAYERS
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel, network_kind
from fedmm_secure.ctr.recipes import Recipe
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets
from fedmm_secure.federation.account import enter_without_bound
from fedmm_secure.storage.run_directory import default_directory
from privacy.files import write_json

OURS, READY = "here", "FuxiCTR, batches ready in memory"
ALL = "all"  # markets together
IDS: tuple[FeatureGroup, ...] = ("user_id", "item_id")
NUMBERS: tuple[FeatureGroup, ...] = ("scores", "counts", "recency")
KINDS: Mapping[str, ModelKind] = {"deepfm": "deepfm", "dcnv2": "dcnv2", "autoint": "autoint", "finalmlp": "finalmlp"}
_Way = Callable[[int], TrainingRun]


@dataclass(frozen=True)
class TrainingCost:
    """What training a model costs on one core.

    Attributes:
        market: its name, or ``ALL``.
        model: its kind.
        what: whose training.
        ratio: samples a second over those of the other library, in the same repetition; None where it is missing.
        low: of its 95 % interval.
        high: likewise.
        rate: thousand samples a second, training examples times passes over them; of trees, times trees.
        auc: of the test candidates, over repetitions, each with a seed of its own.
        ahead: AUC minus the other library's; None where it is missing.
    """

    market: str
    model: str
    what: str
    ratio: float | None
    low: float | None
    high: float | None
    rate: Estimate
    auc: Interval
    ahead: Interval | None


@dataclass(frozen=True)
class Costs:
    """All rows, the versions of libraries, and why others were left out.

    Attributes:
        rows: by market, model and way.
        versions: of the libraries that were there.
        missing: by library, why it was left out.
    """

    rows: Sequence[TrainingCost]
    versions: Mapping[str, str]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class DrawnExamples:
    """Of one market, the same for every library: negatives are drawn once."""

    schema: FeatureSchema
    train: Labelled
    valid: Labelled
    test: Labelled

    def write(self, folder: Path) -> None:
        """As ``elsewhere`` reads them."""
        folder.mkdir()
        categories = list(zip(self.schema.category_names, self.schema.cardinalities, strict=True))
        fields = {"categories": categories, "numbers": self.schema.number_names}
        write_json(folder / "fields.json", fields)
        for split, part in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            columns = dict(zip(self.schema.category_names, part.features.categories.T, strict=True))
            columns |= dict(zip(self.schema.number_names, part.features.numbers.T, strict=True))
            np.savez(folder / f"{split}.npz", label=part.label, **columns)


@dataclass(frozen=True)
class Contest:
    """One model on one market's examples, trained in several ways; the second is what others are held against."""

    market: str
    model: ModelKind
    samples: int
    ways: Mapping[str, _Way]


def measure_training(config: Config, kind: ModelKind, python: Path | None, repetitions: int) -> Costs:
    """Every way in each repetition, market by market, on one thread, with early stopping and the configured choices.

    For as long as this takes, training examples lie in a folder that only this user can read. What is printed are
    exact figures of raw rows: each market's account has it as a run without a budget.

    Args:
        config: markets, and choices of networks.
        kind: of the network; boosted trees are measured in any case.
        python: an interpreter that has FuxiCTR or LightGBM; None to measure what is here alone.
        repetitions: each with a seed of its own.

    Raises:
        ConfigError: the interpreter cannot be started, or ends without an answer.
    """
    markets = prepare_markets(config.data)
    enter_without_bound(config, default_directory("ctr"), *markets.values())
    with TemporaryDirectory(prefix="fedmm-bench-") as name, _one_thread(), _started(python, Path(name)) as worker:
        versions, missing = _libraries(worker)
        contests = [
            contest
            for market, prepared in track("examples", markets.items(), len(markets))
            for contest in _contests(config, kind, prepared, Path(name) / market, worker, versions)
        ]
        found: dict[tuple[int, str], list[TrainingRun]] = {}
        for repetition in track("repetitions", range(repetitions)):
            for index, contest in enumerate(contests):
                for way, train in contest.ways.items():
                    found.setdefault((index, way), []).append(train(repetition))
    return Costs(_rows(contests, found), versions, missing)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # a process's first imports for seconds; FuxiCTR makes its own before its clock
    try:
        with threadpool_limits(1):  # of what grows trees
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _started(python: Path | None, folder: Path) -> Iterator[Worker | None]:
    if python is None:
        yield None
        return
    with Worker(python, folder) as worker:
        yield worker


def _libraries(worker: Worker | None) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of those that are there, and why others are not."""
    versions, missing = {}, {}
    for library in (FUXICTR, LIGHTGBM):
        if worker is None:
            missing[library] = "no --python was given"
            continue
        try:
            versions[library] = worker.version(library)
        except MissingLibraryError as error:
            missing[library] = str(error)
    return versions, missing


def _contests(
    config: Config,
    kind: ModelKind,
    prepared: PreparedMarket,
    folder: Path,
    worker: Worker | None,
    libraries: Mapping[str, str],
) -> Iterator[Contest]:
    trainer = market_trainer(prepared, fit_embedding(prepared, config.embedding), config)
    recipes = (Recipe(kind, kind, IDS, False, None), Recipe("boosted", "boosted", NUMBERS, True, None))
    folder.mkdir()
    for recipe in recipes:
        choices = family_of(recipe.kind).grid(config.ctr)[0]
        fit = trainer.prepare_fit(recipe, None, 0, choices)
        examples = DrawnExamples(
            fit.builder.schema(), fit.source.draw(0), fit.validation, labelled(fit.builder, prepared.test)
        )
        ways: dict[str, _Way] = {OURS: partial(_train, recipe.kind, choices, examples)}
        data = folder / recipe.name
        if worker is not None:
            examples.write(data)
        if worker is not None and isinstance(choices, BoostedChoices) and LIGHTGBM in libraries:
            ways[LIGHTGBM] = partial(worker.train, LIGHTGBM, data, _tree_order(choices))
        if worker is not None and isinstance(choices, NeuralChoices) and FUXICTR in libraries:
            model = NeuralModel(network_kind(kind), examples.schema, choices, 0)
            order = _network_order(kind, choices, model.batch_size(len(examples.train)))
            ways[FUXICTR] = partial(worker.train, FUXICTR, data, order)
            ways[READY] = partial(worker.train, FUXICTR, data, {**order, "ready": True})
        yield Contest(prepared.market.name, recipe.kind, len(examples.train), ways)


def _train(kind: ModelKind, choices: Choices, examples: DrawnExamples, seed: int) -> TrainingRun:
    """Ours, on the same examples in every epoch."""
    model = family_of(kind).make(kind, examples.schema, choices, seed)
    epochs: list[int] = []

    def draw(epoch: int) -> Labelled:
        epochs.append(epoch)
        return examples.train

    started = time.process_time()
    model.fit(ExampleSource([draw]), examples.valid, None)
    seconds = time.process_time() - started
    auc = roc_auc_score(examples.test.label, model.predict(examples.test.features))
    return TrainingRun(seconds, float(auc), model.iterations_ if isinstance(model, BoostedModel) else len(epochs))


def _network_order(kind: ModelKind, choices: NeuralChoices, batch: int) -> dict[str, object]:
    """What FuxiCTR trains: the same sizes, choices and stopping rule."""
    own = {
        "dim": choices.dim,
        "hidden": list(choices.hidden),
        "dropout": choices.dropout,
        "learning_rate": choices.learning_rate,
        "table_decay": choices.table_decay,
        "batch": batch,
        "most": choices.max_epochs,
        "patience": choices.patience,
        "heads": HEADS,
        "layers": CROSS_LAYERS,
    }
    return {"kind": kind, "choices": own, "ready": False}


def _tree_order(choices: BoostedChoices) -> dict[str, object]:
    """What LightGBM grows: the same sizes, choices and stopping rule."""
    parameters = {
        "learning_rate": choices.learning_rate,
        "num_leaves": choices.max_leaf_nodes,
        "min_data_in_leaf": choices.min_samples_leaf,
        "lambda_l2": choices.l2,
    }
    return {
        "choices": {"parameters": parameters, "most": choices.max_iterations, "patience": choices.patience},
    }


def _rows(contests: Sequence[Contest], found: Mapping[tuple[int, str], Sequence[TrainingRun]]) -> list[TrainingCost]:
    """Of each market, then of all together, model by model."""
    rows = []
    for model in dict.fromkeys(contest.model for contest in contests):
        places = [index for index, contest in enumerate(contests) if contest.model == model]
        for market, chosen in [*((contests[index].market, [index]) for index in places), (ALL, places)]:
            ways = list(contests[chosen[0]].ways)
            rates = {way: _rate([(contests[index].samples, found[index, way]) for index in chosen]) for way in ways}
            aucs = {way: np.mean([[one.auc for one in found[index, way]] for index in chosen], axis=0) for way in ways}
            other = ways[1] if len(ways) > 1 else None
            for way in ways:
                faster = None if other is None else mean_estimate(rates[way] / rates[other])
                ratio, low, high = (None,) * 3 if faster is None else (faster.value, faster.low, faster.high)
                ahead = None if other is None else seed_interval(list(aucs[way] - aucs[other]))
                rate, auc = mean_estimate(rates[way] / 1000), seed_interval(list(aucs[way]))
                rows.append(TrainingCost(market, model, way, ratio, low, high, rate, auc, ahead))
    return rows


def _rate(trained: Sequence[tuple[int, Sequence[TrainingRun]]]) -> FloatArray:
    """Samples a second of all trainings of a repetition together ``(repetitions,)``."""
    samples = np.sum([[size * one.passes for one in runs] for size, runs in trained], axis=0)
    return np.asarray(samples / np.sum([[one.seconds for one in runs] for _, runs in trained], axis=0))
