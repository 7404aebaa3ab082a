"""Run the attacks on a finished run and keep what they find in ``attacks/`` of its directory.

``attacks.json`` holds every result, ``results.parquet`` the same as a table, ``scores/`` the score of every target of
the membership attacks; figures stand beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd

from attacks.inversion.assignments import infer_usage
from attacks.inversion.deltas import guess_deltas, recover_deltas
from attacks.inversion.reconstruction import (
    Reconstruction,
    match,
    match_gradient,
    prototypes,
    reconstruct_from_codes,
    reconstruct_from_prototypes,
    recover_histories,
)
from attacks.membership.evaluate import Inference, infer
from attacks.membership.queries import Unit
from attacks.membership.shadow import Progress, ShadowPlan, ShadowScores, recipe_by_name, train_shadows
from attacks.metrics import within_bound
from attacks.poisoning.evaluate import poison
from attacks.views import View, collusion_view, market_view, owner_values, server_view
from experiments.compliance.evidence import Results, add_statement, attacks_file, make_statement
from experiments.configuration import readers_data
from experiments.data import choose_market
from experiments.reports.attack_figures import draw_reconstruction, draw_roc
from experiments.run_directory import read_foreign_config, read_noise
from experiments.steps import track
from experiments.truth import federated_truth, own_truth, popularity
from fedmm_secure.artefacts import write_parquet
from fedmm_secure.config import Config, DataConfig
from fedmm_secure.ctr.recipes import CONFIGURED
from fedmm_secure.data.market import FloatArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.closing import read_metrics
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from fedmm_secure.quantization.build import initial_model
from fedmm_secure.randomness import numpy_generator, torch_generator
from fedmm_secure.storage import Store
from privacy.accounting.guarantees import Guarantee, changed_rows
from privacy.accounting.text import epsilon_text
from privacy.aggregation.identities import Identity
from privacy.foreign import ForeignDirectory

DEFAULT_SHADOWS = 16
UNITS: tuple[Unit, ...] = get_args(Unit)
_WHITE_BOX = "release"


@dataclass(frozen=True)
class Attacked:
    """A finished run, what to attack of it, and where shadow pipelines are kept."""

    run: Path
    config: Config
    metrics: Mapping[str, Any]
    markets: Mapping[str, PreparedMarket]
    market: str
    targets: tuple[str, ...]
    units: tuple[Unit, ...]
    n_shadows: int
    shadows: Store
    progress: Progress

    @property
    def prepared(self) -> PreparedMarket:
        return self.markets[self.market]

    @cached_property
    def views(self) -> tuple[tuple[str, View], ...]:
        """The views of the federation that a market under attack has to fear, by name."""
        others = [name for name in self.markets if name != self.market]
        return (
            ("server", server_view(self.run)),
            ("market", market_view(self.run, others[0])),
            ("collusion", collusion_view(self.run, others[:1])),
        )

    def rng(self, name: str) -> np.random.Generator:
        return numpy_generator("attack", name, self.market)


def attack_run(
    run: Path,
    *,
    attacks: Sequence[str] | None = None,
    market: str | None = None,
    targets: Sequence[str] = (CONFIGURED,),
    units: Sequence[Unit] = UNITS,
    n_shadows: int = DEFAULT_SHADOWS,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    identity: Identity | None = None,
    data: Path | DataConfig | None = None,
) -> Results:
    """Attack a run; results are written beside those of attacks made before, as a statement about the run as it is now.

    Args:
        run: a finished run's directory.
        attacks: names out of ``ATTACKS``; by default all that the run admits.
        market: the market under attack; by default the one with the fewest users.
        targets: models for membership inference.
        units: what membership is asked about.
        n_shadows: shadow pipelines.
        workers: processes; by default as configured.
        progress: told of pipelines done.
        identity: signs what is found; None leaves it unsigned.
        data: folder of the markets' files, where the run read any, or all that says where they are; the run's own word
            for it is not taken.

    Returns:
        All results that the run directory now holds.

    Raises:
        ConfigError: unknown attack, market or target, or an attack that the run does not admit.
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_foreign_config(run), read_metrics(run)
    config = config.model_copy(update={"workers": workers or min(config.workers, os.cpu_count() or 1)})
    market = choose_market(market, {name: values["n_users"] for name, values in metrics["markets"].items()})
    for attack in attacks or ():
        if attack not in ATTACKS:
            raise ConfigError(f"--attack {attack}: choose from {', '.join(ATTACKS)}")
    for target in targets:
        try:
            recipe_by_name(config, target)
        except ValueError as error:
            raise ConfigError(f"--target {error}") from error
    if n_shadows % 2:
        raise ConfigError("--shadows must be even: half of them hold each unit")
    if "poisoning" in (attacks or ()) and config.privacy.epsilon is not None:
        raise ConfigError("--attack poisoning: measured on runs without privacy.epsilon; this run has one")
    if attacks is None:
        attacks = [name for name in ATTACKS if name != "poisoning" or config.privacy.epsilon is None]
    markets = prepare_markets(data if isinstance(data, DataConfig) else readers_data(config.data, data))
    settings = {"market": market, "targets": list(targets), "units": list(units), "shadows": n_shadows}
    found: Results = {}
    made: Results = {}
    # who signs answers for every shadow: those that lie in the directory are not taken for trained
    with nullcontext(str(run / "attacks")) if identity is None else TemporaryDirectory() as kept:
        attacked = Attacked(
            run,
            config,
            metrics,
            markets,
            market,
            tuple(targets),
            tuple(units),
            n_shadows,
            Store(Path(kept)),
            progress,
        )
        for name in track("attacks", attacks):
            made[name] = [{**result, "prior_knowledge": PRIOR_KNOWLEDGE[name]} for result in ATTACKS[name](attacked)]
            found = add_statement(run, attacks_file(run), make_statement(run, "attack", settings, made, identity))
    _write_table(run / "attacks" / "results.parquet", found)
    if found.get("reconstruction"):
        draw_reconstruction(run / "attacks" / "reconstruction", found["reconstruction"])
    return found


def beyond_bounds(found: Results) -> list[str]:
    """Membership results that a guarantee of the run rules out, one line each."""
    return [
        f"{result['market']}, {result['target']}, {result['view']}, {result['attack']}, {result['unit']}: beyond "
        f"epsilon {epsilon_text(result['bound']['epsilon'])}"
        for result in found.get("membership", [])
        if result["bound"] and not all(result["bound"]["within"].values())
    ]


# -- codebooks ---------------------------------------------------------------------------------------------------------


def _invert(attacked: Attacked) -> list[dict[str, Any]]:
    truth, kind = owner_values(attacked.run), attacked.config.aggregation.kind
    cohort = len(attacked.markets)
    return [
        {"view": name, "aggregation": kind, "cohort": cohort, **asdict(recover_deltas(view, truth))}
        for name, view in attacked.views
    ]


def _movements(attacked: Attacked, view: View) -> FloatArray:
    """The market's movements as the adversary recovers them, ``(rounds, n_codes, latent_dim)``."""
    quantizer = attacked.config.quantizer
    codec = AggregationPlan.of(attacked.config, len(attacked.markets)).codec
    stage = seed_stage(QUANTIZER, attacked.config.seed[0])
    rounds = sorted(
        (round, guess)
        for (found, round, sender), guess in guess_deltas(view).items()
        if (found, sender) == (stage, attacked.market)
    )
    shape = (quantizer.global_codes, quantizer.latent_dim)
    limit = codec.clip  # what is no movement at all is cut to what a movement may be
    return np.stack(
        [np.clip(codec.decode(guess.astype(np.int64)), -limit, limit).reshape(shape) for _, guess in rounds]
    )


def _reconstruct(attacked: Attacked) -> list[dict[str, Any]]:
    run, config, prepared = attacked.run, attacked.config, attacked.prepared
    own, federated = own_truth(run, config, prepared), federated_truth(run, config, prepared)
    other = next(name for name in attacked.markets if name != attacked.market)
    prior = prototypes(own_truth(run, config, attacked.markets[other]).quantizer)
    released, users = own.released(), own.embedding.user_factors_
    found: list[tuple[str, Reconstruction]] = [
        ("release and profile", reconstruct_from_codes(released, own.codes.user, users, prior)),
        (_WHITE_BOX, reconstruct_from_prototypes(released, users, prior, attacked.rng("prototypes"))),
    ]
    start, rows = initial_model(config, config.seed[0]), config.quantizer.global_codes
    random = attacked.rng("directions").normal(size=(rows, start.shape.input_dim))
    for name, view in attacked.views:
        guess = match_gradient(start, _movements(attacked, view)[0], rows, torch_generator("attack", attacked.market))
        users = federated.embedding.user_factors_
        found.append((name, match("gradient matching", guess, users, random, attacked.rng("gradient"))))
    return [
        {
            "market": attacked.market,
            "view": view,
            "aggregation": config.aggregation.kind,
            "published": config.private_ctr,
            **asdict(result),
        }
        for view, result in found
    ]


def _infer_usage(attacked: Attacked) -> list[dict[str, Any]]:
    config = attacked.config
    truth = federated_truth(attacked.run, config, attacked.prepared)
    start, users = initial_model(config, config.seed[0]), truth.embedding.user_factors_
    return [
        {
            "market": attacked.market,
            "view": name,
            "aggregation": config.aggregation.kind,
            **asdict(
                infer_usage(start, _movements(attacked, view), users, truth.codes.user[:, 0], attacked.rng("usage"))
            ),
        }
        for name, view in attacked.views
    ]


def _recover_histories(attacked: Attacked) -> list[dict[str, Any]]:
    truth = own_truth(attacked.run, attacked.config, attacked.prepared)
    market, train = attacked.prepared.market, attacked.prepared.split.train
    history = history_matrix(market, train).toarray() > 0
    results = recover_histories(truth.released(), truth.codes.user, history, popularity(attacked.prepared))
    return [
        {
            "market": attacked.market,
            "view": "release and profile",
            "published": attacked.config.private_ctr,
            **asdict(result),
        }
        for result in results
    ]


# -- membership --------------------------------------------------------------------------------------------------------


def _infer_membership(attacked: Attacked) -> list[dict[str, Any]]:
    run, config, found = attacked.run, attacked.config, []
    for unit in attacked.units:
        plan = ShadowPlan(
            config,
            attacked.markets,
            attacked.market,
            attacked.targets,
            {target: _tuned_choice(run, attacked.market, target) for target in attacked.targets},
            {name: read_noise(run, name) for name in attacked.markets},
            unit,
        )
        shadows = train_shadows(plan, n_shadows=attacked.n_shadows, store=attacked.shadows, progress=attacked.progress)
        inferences = list(infer(shadows))
        for target in attacked.targets:
            own = [inference for inference in inferences if inference.target == target]
            stem = f"{attacked.market}-{unit}-{target}"
            _write_scores(run / "attacks" / "scores" / f"{stem}.parquet", shadows, own)
            bounds = {inference.view: _guarantee(attacked, inference.view, unit) for inference in own}
            draw_roc(run / "attacks" / f"roc-{stem}", own, bounds)
            found += [_membership_result(attacked, unit, inference, bounds[inference.view]) for inference in own]
    return found


def _membership_result(
    attacked: Attacked, unit: Unit, inference: Inference, guarantee: Guarantee | None
) -> dict[str, Any]:
    bound = None
    if guarantee is not None and guarantee.epsilon is not None:
        within = within_bound(inference.scores, inference.member, guarantee.epsilon, guarantee.delta)
        bound = {
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
            "within": {f"at_{100 * rate:g}_percent_fpr": holds for rate, holds in within.items()},
        }
    return {
        "market": attacked.market,
        "target": inference.target,
        "attack": inference.attack,
        "unit": unit,
        "view": inference.view,
        "bound": bound,
        **inference.metrics.to_json(),
    }


def _guarantee(attacked: Attacked, view: str, unit: Unit) -> Guarantee | None:
    """What the run says of a view; for single interactions, what that implies for a change of one user's rows."""
    stated = attacked.metrics["privacy"]["markets"][attacked.market].get(view)
    if stated is None or stated["epsilon"] is None or view == "profile":
        return None
    guarantee = Guarantee(stated["epsilon"], stated["delta"], stated["unit"], stated["basis"])
    return guarantee if unit == "user" else changed_rows(guarantee)


def _write_scores(path: Path, shadows: ShadowScores, inferences: Sequence[Inference]) -> None:
    """One row for each target model and unit; units are numbered as the queries are."""
    if not inferences:
        return
    member = inferences[0].member
    units = np.unique(shadows.queries.user) if shadows.unit == "user" else shadows.queries.rows
    frame = pd.DataFrame(
        {
            "model": np.repeat(np.arange(len(member), dtype=np.int16), len(units)),
            shadows.unit: np.tile(units.astype(np.int32), len(member)),
            "member": member.ravel(),
            **{f"{found.view}: {found.attack}": found.scores.ravel().astype(np.float32) for found in inferences},
        }
    )
    write_parquet(path, frame, "zstd")


def _tuned_choice(run: Path, market: str, target: str) -> int:
    directory, name = ForeignDirectory(run), f"state/ctr/{market}/tuned-{target}.json"
    return int(directory.json(name)["choice"]) if directory.has(name) else 0


# -- poisoning ---------------------------------------------------------------------------------------------------------


def _poison(attacked: Attacked) -> list[dict[str, Any]]:
    damages = poison(attacked.config, attacked.markets, attacked.market)
    return [{"market": attacked.market, **asdict(damage)} for damage in damages]


ATTACKS: Mapping[str, Callable[[Attacked], list[dict[str, Any]]]] = {
    "inversion": _invert,
    "reconstruction": _reconstruct,
    "usage": _infer_usage,
    "histories": _recover_histories,
    "membership": _infer_membership,
    "poisoning": _poison,
}


PRIOR_KNOWLEDGE: Mapping[str, str] = {
    "inversion": "public material; the shared key, where a market is part of the adversary",
    "reconstruction": "the method, the public initial model, another market's models",
    "usage": "embeddings of the market's users; the public initial model",
    "histories": "the users' codes; popularity of items in the market's training rows",
    "membership": "all rows of the market, but not which of them were trained on",
    "poisoning": "the cohort's size, the codebook of each round, its own rows",
}


def _write_table(path: Path, found: Results) -> None:
    rows = [{"kind": kind, **result} for kind, results in found.items() for result in results]
    write_parquet(path, pd.json_normalize(rows, sep="."), "zstd")
