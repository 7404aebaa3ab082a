"""The audit of a market's plan: each stage, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from dp_accounting.dp_event import DpEvent

from attacks.auditing import AIM, AUDIT_LEVEL
from attacks.auditing.claims import Claim, factor_at
from attacks.auditing.games import (
    play_counts,
    play_gram,
    play_masks,
    play_shared_counts,
    play_shared_gram,
    play_subspace,
)
from attacks.auditing.gradients import play_bag, play_gradients, play_user
from attacks.auditing.joint import Parts, canaries_needed
from attacks.auditing.laws import Law, Members
from attacks.auditing.played import Played, join_batches, together
from attacks.auditing.verdicts import AuditResult, judge
from fedmm_secure.executors.base import Executor
from fedmm_secure.executors.processes import WorkerProcesses
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, QUANTIZER, SHARED_COUNTS, SHARED_GRAM
from privacy.accounting.ledger import stage_group
from privacy.aggregation.masking import mask_bits
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import norm_of

CHAIN, MASKS = "chain", "masks"
GRADIENTS, USER, CODEBOOK = "gradient canaries", "crafted user", "crafted user, codebook"
NOISE_SEEN = 0.9  # of the stated noise: what an audit is made to see
FEWEST_CANARIES = 16
_TWO_ROUNDS, _RATIOS = "two rounds", "sum of ratios"
_FEWEST_CHEAP = 500  # canaries of games that train no model: coins that repeat are seen by the spread of those in
_MASK_GAMES = 40
_MOST, _MOST_TRAINED = 100_000, 60
_BATCH, _BATCH_TRAINED = 500, 15  # canaries in one task

Play = Callable[[Members, NoiseSource], Played]
AuditProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Game:
    """One way to play a mechanism.

    Attributes:
        stage: of the pipeline, or ``masks``.
        kind: of canary.
        play: shows canaries, some of them in, as coins decided.
        law: of what each shows where the mechanism is as stated; None where nothing may show.
        trains: whether a model is trained for each canary.
        most: canaries at most, where time would otherwise know no bound.
    """

    stage: str
    kind: str
    play: Play
    law: Law | None
    trains: bool = False
    most: int = _MOST

    def tasks(self, canaries: int, nonce: bytes) -> Iterator[tuple[Play, Members, bytes, tuple[str, str, int]]]:
        """Its batches; the coins of a canary are the same in every game."""
        member = NoiseSource(nonce, seeded=False).derive("coins").coins(0.5, canaries)
        batch = _BATCH_TRAINED if self.trains else _BATCH
        for start in range(0, canaries, batch):
            yield self.play, member[start : start + batch], nonce, (self.stage, self.kind, start)


@dataclass(frozen=True)
class Audit:
    """Games, what is claimed of the mechanisms that they play, and how many canaries.

    Attributes:
        stage: of the pipeline, ``chain`` or ``masks``.
        kind: of canary.
        games: one, or one for each stage of a chain.
        claim: what the plan says of them.
        parts: their laws, and how much each counts.
        level: false-alarm rate.
        canaries: to be scored.
        needed: canaries that see ``NOISE_SEEN`` of the noise, and ε at ``AIM`` times the claim; None where no number
            does, or nothing is claimed.
    """

    stage: str
    kind: str
    games: tuple[Game, ...]
    claim: Claim
    parts: Parts
    level: float
    canaries: int
    needed: int | None

    @property
    def name(self) -> str:
        """Stage and game, in one word for files and lines."""
        return f"{self.stage}/{self.kind}".replace(",", "").replace(" ", "-")

    def judge(self, played: Sequence[Played]) -> AuditResult:
        """The verdict on what each of its games showed."""
        one = together(played, [weight for weight, _ in self.parts]) if len(played) > 1 else played[0]
        return judge(self.claim, self.parts, one.first(self.canaries), level=self.level)


def plan_audits(plan: SpendingPlan, *, canaries: int | None = None, level: float = AUDIT_LEVEL) -> list[Audit]:
    """The audits of one market: every number in them follows from its plan.

    Args:
        plan: what the market spends, on what.
        canaries: of each audit; by default as many as it takes to see ``NOISE_SEEN`` of the noise, and ε at ``AIM``
            times what is claimed.
        level: false-alarm rate of all audits together: each has its share.
    """
    games, events = stage_games(plan), stage_events(plan)
    first: dict[str, Game] = {}
    for game in games:
        first.setdefault(game.stage, game)  # the first kind is the sharpest
    chained, masked = len(first) > 1, plan.config.aggregation.traits.hides_single_updates
    each = level / max(1, len(games) + chained + masked)
    audits = [_audit(game, Claim(events[game.stage], plan.delta), canaries, each) for game in games]
    if chained:
        audits.append(_chain(tuple(first.values()), events, audits, plan.delta, each))
    if masked:
        bits = mask_bits(plan.n_markets, 2**plan.config.aggregation.bits)
        game = Game(MASKS, _TWO_ROUNDS, partial(play_masks, bits), None, most=_MASK_GAMES)
        audits.append(_audit(game, Claim((), plan.delta), canaries, each))
    return audits


def stage_events(plan: SpendingPlan) -> dict[str, tuple[DpEvent, ...]]:
    """What a plan says of each stage that adds noise: the events of all its releases."""
    found: dict[str, list[DpEvent]] = {stage: [] for stage in plan.noise}
    for release in plan.releases():
        if stage_group(release.stage) in found:
            found[stage_group(release.stage)].append(release.event)
    return {stage: tuple(events) for stage, events in found.items()}


def stage_games(plan: SpendingPlan) -> list[Game]:
    """Every game against the stages that add noise."""
    config, noise, found = plan.config, plan.noise, []
    privacy, repetitions = config.privacy, len(config.seed)
    if COUNTS in noise:
        sigma, times = noise[COUNTS], config.times_counted
        found.append(Game(COUNTS, USER, partial(play_counts, privacy.contribution, times, sigma), Law(sigma)))
    if EMBEDDING in noise:
        private, sigma = config.embedding.private, noise[EMBEDDING]
        play = play_gram if private.uses_gram(plan.size.items) else play_subspace  # as the market's items decide
        found.append(Game(EMBEDDING, USER, partial(play, private, sigma), Law(sigma)))
    honest = plan.n_markets - privacy.colluding_markets
    for stage, summed in ((SHARED_COUNTS, play_shared_counts), (SHARED_GRAM, play_shared_gram)):
        if stage in noise:
            sigma = noise[stage]
            found.append(Game(stage, USER, partial(summed, norm_of(sigma, honest), honest), Law(sigma)))
    if QUANTIZER in noise:
        choices, steps = dp_sgd(privacy.quantizer, noise[QUANTIZER]), privacy.quantizer.steps_per_round
        rounds = repetitions * (config.federation.rounds - config.federation.warm_up_rounds)
        law, user = _law(choices, rounds * steps), partial(play_user, choices, rounds, steps)
        found.append(Game(QUANTIZER, GRADIENTS, partial(play_gradients, choices, rounds, steps), law))
        found.append(Game(QUANTIZER, USER, user, law, trains=True, most=_MOST_TRAINED))
        part = partial(user, codebook=True)
        found.append(Game(QUANTIZER, CODEBOOK, part, law, trains=True, most=_MOST_TRAINED))
    if CTR in noise:
        choices, steps = dp_sgd(privacy.ctr, noise[CTR]), repetitions * privacy.ctr.steps
        law = _law(choices, steps)
        found.append(Game(CTR, GRADIENTS, partial(play_gradients, choices, 1, steps), law))
        found.append(Game(CTR, USER, partial(play_bag, choices, steps), law, trains=True, most=_MOST_TRAINED))
    return found


def play(
    audits: Sequence[Audit],
    nonce: bytes,
    *,
    executor: Executor | None = None,
    report: AuditProgress = lambda name, done, n: None,
) -> Iterator[tuple[Audit, list[Played]]]:
    """Audits, and what their games showed; a game that several audits are about is played once.

    Args:
        audits: to be played.
        nonce: 32 bytes, the auditor's: all randomness follows from it, so whoever has it draws the same games again.
        executor: who plays; by default this process. Games are of crafted data: any worker may see them.
        report: told of progress by audit.
    """
    executor = executor or WorkerProcesses(1)
    shown: dict[tuple[str, str], Played] = {}
    most: dict[tuple[str, str], int] = {}
    for audit in audits:
        for game in audit.games:
            most[game.stage, game.kind] = max(audit.canaries, most.get((game.stage, game.kind), 0))
    for audit in audits:
        for game in audit.games:
            key = game.stage, game.kind
            if key not in shown:
                shown[key] = join_batches(_batches(game, most[key], nonce, executor, partial(report, audit.name)))
        yield audit, [shown[game.stage, game.kind] for game in audit.games]


def _batches(
    game: Game, canaries: int, nonce: bytes, executor: Executor, report: Callable[[int, int], None]
) -> list[Played]:
    """What a game showed, in the order of its tasks."""
    tasks, done = list(game.tasks(canaries, nonce)), 0
    found = dict[int, Played]()
    for ended in executor.run(_one_thread, None, tasks):
        found[ended.index] = ended.result()
        done += len(found[ended.index])
        report(done, canaries)
    return [found[index] for index in range(len(tasks))]


def _one_thread(shared: None, play: Play, member: Members, nonce: bytes, purpose: tuple[str, str, int]) -> Played:
    torch.set_num_threads(1)
    return play(member, NoiseSource(nonce, seeded=False).derive("game", *purpose))


def _law(choices: DPSGD, steps: int) -> Law:
    return Law(choices.noise_multiplier, choices.sampling_rate, steps)


def _audit(game: Game, claim: Claim, canaries: int | None, level: float) -> Audit:
    parts = () if game.law is None else ((1.0, game.law),)
    needed = _needed(parts, claim, level) if parts else None
    wanted = canaries or (game.most if needed is None else max(needed, 0 if game.trains else _FEWEST_CHEAP))
    return Audit(
        game.stage, game.kind, (game,), claim, parts, level, int(np.clip(wanted, FEWEST_CANARIES, game.most)), needed
    )


def _chain(
    games: tuple[Game, ...], events: dict[str, tuple[DpEvent, ...]], audits: Sequence[Audit], delta: float, level: float
) -> Audit:
    """All stages with the same canaries in, as many as every one of them has; their noise is independent."""
    own = {audit.stage: audit for audit in reversed(audits)}
    distances = np.array([own[game.stage].claim.distance for game in games])
    weights = distances / np.linalg.norm(distances)
    parts = tuple((float(weight), game.law) for weight, game in zip(weights, games, strict=True) if game.law)
    claim = Claim(tuple(event for game in games for event in events[game.stage]), delta)
    canaries = min(own[game.stage].canaries for game in games)
    return Audit(CHAIN, _RATIOS, games, claim, parts, level, canaries, _needed(parts, claim, level))


def _needed(parts: Parts, claim: Claim, level: float) -> int | None:
    factor = factor_at(claim, AIM * claim.epsilon)
    return canaries_needed(parts, level, noise=max(NOISE_SEEN, factor), weight=1.0 / factor)
