"""What a run reports: metrics per market and macro, paired differences, codebook use, communication."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.ctr.metrics import evaluate, paired_auc_difference, seed_interval
from fedmm_secure.ctr.private_evaluation import NoisyEstimate, mean_of, noisy_figures
from fedmm_secure.data.catalogue import BROUGHT
from fedmm_secure.data.prepare import PreparedMarket, sizes
from fedmm_secure.federation.transcript import AGGREGATE, HELLO, START, STATEMENT, UPDATE, Record
from fedmm_secure.quantization.codes import assign_codes, codebook_use, reconstruction_error
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import numpy_generator
from privacy.mechanisms.histograms import ScoreHistograms

RunMetrics = dict[str, Any]


def describe(prepared: PreparedMarket) -> dict[str, Any]:
    """Sizes of a market for its private log: those of the metrics, and what the catalogue leaves out."""
    return {
        **sizes(prepared),
        "catalogue": prepared.catalogue.kind,
        # how many there are depends on single users' rows: this stays in the market, the metrics do not say it
        "lacking": prepared.lacking,
        "rows_outside_catalogue": prepared.whole.market.n_rows - prepared.market.n_rows,
        "reading": _reading(prepared),
    }


def _reading(prepared: PreparedMarket) -> dict[str, Any] | None:
    """What was read of a market's file."""
    found = prepared.whole.market.reading
    return None if found is None else asdict(found)


def stated_catalogues(config: Config, markets: Mapping[str, PreparedMarket]) -> dict[str, dict[str, Any]]:
    """What a run says of each market's catalogue: kind, hash and size.

    Raises:
        ValueError: a market was trained on another kind of catalogue than was configured.
    """
    for name, prepared in markets.items():
        # markets in memory may bring the generator's catalogue where files bring theirs
        allowed = BROUGHT if config.catalogue == "file" else (config.catalogue,)
        if prepared.catalogue.kind not in allowed:
            raise ValueError(f"market {name}: its catalogue is {prepared.catalogue.kind}, not {config.catalogue}")
    return {name: prepared.catalogue.stated() for name, prepared in markets.items()}


def collect_metrics(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    embeddings: Mapping[str, Embedding],
    quantizers: Mapping[int, Mapping[str, RQVAE]],
    predictions: Mapping[str, Mapping[str, list[np.ndarray]]],
    histograms: Mapping[str, ScoreHistograms] | None = None,
    commitments: Mapping[str, str] | None = None,
) -> RunMetrics:
    """Per market and macro: the configured model, its baselines, paired differences, codebook use; and the catalogues.

    With ``histograms``, noisy test figures are all that is said of test rows, and of markets nothing but public sizes:
    metrics travel with reports, and whatever else could be said of rows would be an exact figure beside noisy ones.

    Args:
        config: of the run.
        markets: their data.
        embeddings: of their users and items.
        quantizers: their RQ-VAEs, by seed.
        predictions: of all candidates, ``whole.test`` of each market.
        histograms: what the budget paid for, by market; None where figures are exact.
        commitments: to the candidates, keyed, by market.
    """
    found: RunMetrics = {"markets": {}, "macro": {}, "privacy": {"catalogue": stated_catalogues(config, markets)}}
    found["privacy"]["evaluation"] = {"private": histograms is not None}
    if histograms is not None:
        figures = noisy_metrics(histograms)
        for name, prepared in markets.items():
            figures["markets"][name] |= {"n_users": prepared.market.n_users, "n_items": prepared.market.n_items}
        return found | figures
    for name, prepared in markets.items():
        by_model = {model: _model_metrics(prepared, p) for model, p in predictions[name].items()}
        ours = by_model.pop(CONFIGURED)
        for model, values in by_model.items():
            values["auc_gain_over_it"] = None
            if values["auc"] is not None:
                difference = paired_auc_difference(
                    prepared.whole.test,
                    predictions[name][CONFIGURED],
                    predictions[name][model],
                    rng=numpy_generator("bootstrap", name, model),
                )
                # to the last bit what the two figures give: whoever has no rows computes it from them
                values["auc_gain_over_it"] = {**asdict(difference), "mean": ours["auc"] - values["auc"]}
        found["markets"][name] = {
            **ours,
            **sizes(prepared),
            # the largest user, the earliest row: exact facts of single users, which no budget pays for
            **({"reading": _reading(prepared)} if config.privacy.epsilon is None else {}),
            "candidates": (commitments or {}).get(name),
            "baselines": by_model,
            "quantizer": _quantizer_metrics(name, embeddings[name], quantizers),
        }
    found["macro"] = macro_figures(found["markets"], len(config.seed))
    return found


def noisy_metrics(histograms: Mapping[str, ScoreHistograms]) -> RunMetrics:
    """Test figures per market and macro that published histograms give: post-processing of them, and nothing else.

    Figures are None where the noise leaves nothing to say. Intervals are 95 %, for the noise alone.
    """
    figures = {name: noisy_figures(found) for name, found in histograms.items()}
    means = {
        name: {key: mean_of([getattr(repetition, key) for repetition in found]) for key in ("auc", "logloss")}
        for name, found in figures.items()
    }
    macro = {key: mean_of([found[key] for found in means.values()]) for key in ("auc", "logloss")}
    by_seed = {
        name: [None if repetition.auc is None else repetition.auc.value for repetition in found]
        for name, found in figures.items()
    }
    return {
        "markets": {name: _stated(found) | {"auc_by_seed": by_seed[name]} for name, found in means.items()},
        "macro": _stated(macro),
    }


def _stated(estimates: Mapping[str, NoisyEstimate | None]) -> dict[str, Any]:
    found: dict[str, Any] = {"baselines": {}}  # what was trained or calibrated on raw rows has no noisy figure
    for key, estimate in estimates.items():
        found[key] = None if estimate is None else estimate.value
        found[f"{key}_interval"] = None if estimate is None else asdict(estimate.interval())
    return found


def _one_per_seed(values: list[np.ndarray], n_seeds: int) -> list[np.ndarray]:
    return values if len(values) == n_seeds else values * n_seeds


def _model_metrics(prepared: PreparedMarket, by_seed: list[np.ndarray]) -> dict[str, Any]:
    each = [asdict(evaluate(prepared.whole.test, probability)) for probability in by_seed]
    found: dict[str, Any] = {key: _mean_or_none([metrics[key] for metrics in each]) for key in each[0]}
    found["auc_by_seed"] = [metrics["auc"] if np.isfinite(metrics["auc"]) else None for metrics in each]
    return found | figures_of_seeds(found["auc_by_seed"])


def figures_of_seeds(by_seed: Sequence[float | None]) -> dict[str, Any]:
    """What the AUCs of single seeds give: their mean, and its interval; None where there is no such figure."""
    known = [auc for auc in by_seed if auc is not None]
    interval = asdict(seed_interval(known)) if known and len(known) == len(by_seed) else None
    return {"auc": _mean_or_none(by_seed), "auc_interval": interval}


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    """Mean; None where a value is undefined, e.g. a per-user AUC when every user has one class."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _quantizer_metrics(
    name: str, embedding: Embedding, quantizers: Mapping[int, Mapping[str, RQVAE]]
) -> dict[str, Any]:
    rows = np.concatenate([embedding.user_factors_, embedding.item_factors_])
    each = []
    for models in quantizers.values():
        model = models[name]
        codes = assign_codes(model, embedding.user_factors_, embedding.item_factors_)
        both = np.concatenate([codes.user, codes.item])
        sizes = (model.shape.global_codes, model.shape.local_codes)
        layers = [codebook_use(both[:, layer], size) for layer, size in enumerate(sizes)]
        each.append((reconstruction_error(model, rows), *layers))
    return {
        "reconstruction_error": float(np.mean([found[0] for found in each])),
        **{
            f"{layer}_{field}": float(np.mean([getattr(found[index], field) for found in each]))
            for index, layer in ((1, "global"), (2, "local"))
            for field in ("used", "perplexity", "overlap")
        },
    }


def macro_figures(markets: Mapping[str, Any], n_seeds: int) -> dict[str, Any]:
    """Unweighted means over markets, of what metrics say of each: whoever has those has these, to the last bit."""
    in_order = [markets[name] for name in sorted(markets)]

    def mean(sections: list[Mapping[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {
            key: _mean_or_none([s[key] for s in sections]) for key in ("auc", "logloss", "gauc", "ndcg10")
        }
        random = any(len(s["auc_by_seed"]) > 1 for s in sections)  # a score without seeds has no interval over them
        by_seed = [_one_per_seed(s["auc_by_seed"], n_seeds if random else 1) for s in sections]
        if found["auc"] is None:
            return found | {"auc_interval": None}
        return found | {"auc_interval": asdict(seed_interval(np.mean(by_seed, axis=0).tolist()))}

    macro = mean(in_order)
    macro["baselines"] = {name: mean([v["baselines"][name] for v in in_order]) for name in in_order[0]["baselines"]}
    return macro


def communication(records: Sequence[Record], rounds: int) -> dict[str, int]:
    """Bytes of the real messages: up from markets, down to each receiver."""
    # each hello goes on to every market of the run, and each statement to every market of its cohort
    hellos = [record.size for record in records if record.kind == HELLO]
    stated = Counter(_place(record) for record in records if record.kind == STATEMENT)
    return {
        "bytes_up": sum(hellos) + sum(record.size for record in records if record.kind in (STATEMENT, UPDATE)),
        "bytes_down": sum(hellos) * len(hellos)
        + sum(record.size * stated[_place(record)] for record in records if record.kind == STATEMENT)
        + sum(record.size * record.receivers for record in records if record.kind in (START, AGGREGATE)),
        "rounds": rounds,
    }


def _place(record: Record) -> tuple[str, int, int]:
    return record.stage, record.round, record.attempt
