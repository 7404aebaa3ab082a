"""``fedmm audit``: try to refute what a configuration plans, or what a run's ledger states."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dp_accounting.dp_event import ComposedDpEvent, DpEvent

from attacks.auditing.audit import Audit, gather, plan_audits
from attacks.auditing.faults import FAULTS, Fault
from attacks.auditing.games import Played
from attacks.auditing.verdicts import LEVEL, Verdict
from experiments.assessment.figures import draw_audit
from experiments.compliance.evidence import AUDIT, add_statement, audit_file, make_statement
from experiments.runs.configuration import resolve
from experiments.runs.markets import choose_market
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.multipliers import MarketSize, market_noise, planned_stages
from fedmm_secure.storage.files import Store, write_parquet
from fedmm_secure.storage.run_directory import read_foreign_config, read_metrics, read_noise
from privacy.accounting.ledger import read_ledger, stage_group
from privacy.aggregation.identities import Identity
from privacy.files import write_json
from privacy.mechanisms.randomness import NoiseSource

Report = Callable[[str, int, int], None]
FAULTY_GAMES = 60  # of a kind whose single games are slow


@dataclass(frozen=True)
class Audited:
    """What is audited of one market.

    Attributes:
        market: its name.
        config: the configuration.
        noise: by stage, noise multipliers that the mechanisms are played with.
        events: by stage, what is claimed.
        delta: of the claims.
        n_items: of the market.
        n_markets: of the federation.
        run: the run's directory, where results are kept; None to keep none.
    """

    market: str
    config: Config
    noise: Mapping[str, float]
    events: Mapping[str, DpEvent]
    delta: float
    n_items: int
    n_markets: int
    run: Path | None = None

    @property
    def directory(self) -> Path | None:
        """Where results are kept."""
        return None if self.run is None else audit_file(self.run, self.market).parent


def read_audited(source: str, overrides: list[str], market: str | None, workers: int | None = None) -> Audited:
    """A configuration's plan, or a run's ledger; ``workers`` processes instead of those configured.

    Raises:
        ConfigError: there is no ε to audit, or no such market.
    """
    if (Path(source) / "ledger").is_dir():
        if overrides:
            raise ConfigError(f"{source}: a run is audited as it was configured; leave out --set")
        return _with_workers(_of_run(Path(source), market), workers)
    config = resolve(source, overrides)
    _check_budget(config, source)
    markets = {found.name: found for found in load_markets(config.data)}
    name = choose_market(market, {found: data.n_users for found, data in markets.items()})
    delta, n_items = config.privacy.delta_for(markets[name].n_users), markets[name].n_items
    sizes = {found: MarketSize(data.n_users, data.n_items) for found, data in markets.items()}
    noise = market_noise(config, name, sizes)
    events = {stage.name: stage.event(noise[stage.name]) for stage in planned_stages(config, n_items)}
    return _with_workers(Audited(name, config, noise, events, delta, n_items, len(markets)), workers)


def _with_workers(audited: Audited, workers: int | None) -> Audited:
    config = audited.config
    return audited if workers is None else replace(audited, config=config.model_copy(update={"workers": workers}))


def _of_run(run: Path, market: str | None) -> Audited:
    config, metrics = read_foreign_config(run), read_metrics(run)
    _check_budget(config, str(run))
    name = choose_market(market, {found: values["n_users"] for found, values in metrics["markets"].items()})
    noise = read_noise(run, name)
    entries = read_ledger(run / "ledger" / f"{name}.jsonl").entries
    events = {
        stage: ComposedDpEvent([entry.event for entry in entries if stage_group(entry.stage) == stage])
        for stage in noise
    }
    n_items, n_markets = metrics["markets"][name]["n_items"], len(metrics["markets"])
    return Audited(name, config, noise, events, entries[0].delta, n_items, n_markets, run)


def _check_budget(config: Config, source: str) -> None:
    if config.privacy.epsilon is None:
        raise ConfigError(f"{source}: privacy.epsilon is not set: no guarantee is claimed, so there is none to audit")


def audit(
    audited: Audited,
    *,
    canaries: int | None = None,
    level: float = LEVEL,
    report: Report = lambda name, done, n: None,
    identity: Identity | None = None,
) -> list[dict[str, Any]]:
    """Audit one market; results are written to ``audit/<market>/`` of a run, batch by batch, so that it resumes.

    Args:
        audited: what to audit.
        canaries: of each audit; by default as many as it takes to see half the noise.
        level: false-alarm rate of the whole audit: each of its tests has its share.
        report: told of progress by audit.
        identity: signs what is found, as a statement about the run as it is now; None leaves it unsigned.
    """
    found = []
    for planned in _plan(audited, canaries, level):
        start = time.perf_counter()
        # who signs answers for what was played: nothing that lies in the directory is taken for it
        played = gather(_resumed(audited, planned, report, kept=identity is None))
        finding = planned.judge(played)
        found.append(
            {
                "market": audited.market,
                "stage": planned.game.stage,
                "game": planned.game.kind,
                **asdict(finding),
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
    if audited.run is not None and audited.directory is not None:
        settings = {"level": level, "canaries": canaries}
        statement = make_statement(audited.run, "audit", settings, {AUDIT: found}, identity)
        add_statement(audited.run, audit_file(audited.run, audited.market), statement)
        _write_parquet(audited.directory / "audit.parquet", found)
        draw_audit(audited.directory / "audit", found)
    return found


def violations(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in found if result["verdict"] == Verdict.VIOLATED]


def audit_faults(
    audited: Audited, *, canaries: int | None = None, report: Report = lambda name, done, n: None
) -> list[dict[str, Any]]:
    """The audit of the audit: every mechanism broken on purpose, and whether its claim is refuted.

    Each fault is played in this process alone, by every game that is meant to see it.
    """
    audits = _plan(audited, canaries, LEVEL)
    pairs = [(fault, planned) for fault in FAULTS.values() for planned in audits if _concerns(fault, planned)]
    found = []
    for number, (fault, planned) in enumerate(pairs):
        start = time.perf_counter()
        games = min(planned.games, FAULTY_GAMES) if planned.game.slow else planned.games
        limited = replace(planned, level=LEVEL, games=games)
        with fault.broken():
            played = gather(limited.play(make_noise=NoiseSource.from_entropy))
        finding = limited.judge(played)
        found.append(
            {
                "fault": fault.name,
                "stage": planned.game.stage,
                "game": planned.game.kind,
                "caught": finding.verdict == Verdict.VIOLATED,
                **asdict(finding),
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
        report("faults", number + 1, len(pairs))
    if audited.directory is not None:
        write_json(audited.directory / "faults.json", found)
    return found


def _concerns(fault: Fault, planned: Audit) -> bool:
    game = planned.game
    if game.stage not in fault.stages:
        return False
    return game.kind in fault.kinds if fault.kinds else game.broken is None or game.stage == "masks"


def _plan(audited: Audited, canaries: int | None, level: float) -> list[Audit]:
    return plan_audits(
        audited.config,
        audited.noise,
        audited.events,
        audited.delta,
        n_items=audited.n_items,
        n_markets=audited.n_markets,
        canaries=canaries,
        level=level,
    )


def _resumed(audited: Audited, planned: Audit, report: Report, *, kept: bool) -> Iterator[Played]:
    """Batches that were kept, then those that are missing; all of them anew, and none kept, unless ``kept``."""
    done, store = 0, Store(audited.directory / "games") if kept and audited.directory is not None else None
    if store is not None:
        for path in sorted((store.directory / planned.name).glob("*.npz")):
            arrays = store.arrays(f"{planned.name}/{path.stem}", dict)
            yield Played(arrays["inside"], arrays["outside"])
            done += int(arrays["games"])
    if done >= planned.games:
        return
    rest = replace(planned, games=planned.games - done)
    for games, played in zip(rest.batches, rest.play(audited.config.workers), strict=True):
        if store is not None:
            store.arrays(f"{planned.name}/{done:08d}", partial(dict, vars(played), games=np.array(games)))
        done += games
        report(planned.name, done, planned.games)
        yield played


def _write_parquet(path: Path, found: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(found).astype({"verdict": str})
    frame["needed"] = frame["needed"].astype(np.float64)
    write_parquet(path, frame)
