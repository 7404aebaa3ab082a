"""The audit of a market's guarantee: each stage, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import joblib
import numpy as np
import torch
from dp_accounting.dp_event import DpEvent

from attacks.auditing.claims import Claim
from attacks.auditing.games import (
    MakeNoise,
    Played,
    play_counts,
    play_embedding,
    play_masks,
    play_shared_counts,
    play_shared_gram,
)
from attacks.auditing.gradients import play_bag, play_gradients, play_user
from attacks.auditing.verdicts import LEVEL, Finding, canaries_needed, judge
from fedmm_secure.config import Config
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, QUANTIZER, SHARED_COUNTS, SHARED_GRAM
from privacy.aggregation.masking import mask_bits
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import norm_of

CHAIN, MASKS = "chain", "masks"
GRADIENTS, SUMS, USER, CODEBOOK = "gradient canaries", "summed gradients", "crafted user", "crafted user, codebook"
_MARGIN = 2.0  # canaries beyond what an ideal game would need
_FEWEST = 100
_MASK_GAMES, _PLAIN_GAMES = 200, 100
_PLAIN = 4.0  # distance of scores where a mask is used twice, or a codebook not clipped: they hardly overlap

Play = Callable[[int, MakeNoise], Played]


@dataclass(frozen=True)
class Game:
    """One way to play a mechanism.

    Attributes:
        stage: of the pipeline, ``chain`` or ``masks``.
        kind: of canary.
        play: plays a number of games with the canary in, and as many without.
        most: games at most, where time would otherwise know no bound.
        batch: games in one task.
        broken: how far apart scores are under the fault that the game is for; None for half the noise.
    """

    stage: str
    kind: str
    play: Play
    most: int = 200_000
    batch: int = 2_000
    broken: float | None = None

    @property
    def slow(self) -> bool:
        """Whether each game trains a model of its own."""
        return self.batch < 100


@dataclass(frozen=True)
class Audit:
    """A game, what is claimed of the mechanism, and how often it is played.

    Attributes:
        game: how it is played.
        claim: what the ledger says.
        level: false-alarm rate.
        games: with the canary in; as many are played without.
    """

    game: Game
    claim: Claim
    level: float
    games: int

    @property
    def name(self) -> str:
        return f"{self.game.stage}/{self.game.kind}".replace(",", "").replace(" ", "-")

    @property
    def batches(self) -> list[int]:
        """Games of each batch."""
        return [min(self.game.batch, self.games - start) for start in range(0, self.games, self.game.batch)]

    def play(self, workers: int = 1, make_noise: MakeNoise | None = None) -> Iterator[Played]:
        """Batches, over processes; in this one, and one after another, with given noise."""
        play, batches = self.game.play, self.batches
        if make_noise is not None or workers == 1 or len(batches) == 1:
            yield from (_one_thread(play, games, make_noise or NoiseSource.from_entropy) for games in batches)
            return
        tasks = (joblib.delayed(_one_thread)(play, games, NoiseSource.from_entropy) for games in batches)
        yield from joblib.Parallel(n_jobs=workers, return_as="generator")(tasks)

    def judge(self, played: Played) -> Finding:
        one_run, level = self.game.kind in (GRADIENTS, SUMS), self.level
        return judge(self.claim, played.inside, played.outside, level=level, one_run=one_run, broken=self.game.broken)


def plan_audits(
    config: Config,
    noise: Mapping[str, float],
    events: Mapping[str, DpEvent],
    delta: float,
    *,
    n_items: int,
    n_markets: int,
    canaries: int | None = None,
    level: float = LEVEL,
) -> list[Audit]:
    """The audits of one market.

    Args:
        config: the configuration, whose mechanisms are played.
        noise: by stage, noise multipliers that the market adds.
        events: by stage, what is claimed of it.
        delta: of the claims.
        n_items: of the market, by which the embedding chooses its method.
        n_markets: of the federation.
        canaries: of each audit; by default as many as it takes to see half the noise.
        level: false-alarm rate of all audits together: each has its share.
    """
    games = stage_games(config, noise, n_items, n_markets)
    claims = [(game, Claim((events[game.stage],), delta)) for game in games]
    first = {game.stage: game for game in reversed(games)}  # of each stage, the first kind: the sharpest
    if len(first) > 1:
        chain = Game(CHAIN, "sum of ratios", partial(_together, tuple(game.play for game in first.values())))
        claims.append((chain, Claim(tuple(events[stage] for stage in first), delta)))
    if config.aggregation.traits.hides_single_updates:
        bits = mask_bits(n_markets, 2**config.aggregation.bits)
        masks = Game(MASKS, "two rounds", partial(play_masks, bits), most=_MASK_GAMES, broken=_PLAIN)
        claims.append((masks, Claim((), delta)))
    return [_audit(game, claim, canaries, level / len(claims)) for game, claim in claims]


def stage_games(config: Config, noise: Mapping[str, float], n_items: int, n_markets: int) -> list[Game]:
    """Every game against the stages that add noise."""
    privacy, repetitions, found = config.privacy, len(config.seed), []
    if COUNTS in noise:
        found.append(
            Game(COUNTS, USER, partial(play_counts, privacy.contribution, config.times_counted, noise[COUNTS]))
        )
    if EMBEDDING in noise:
        private = config.embedding.private
        method = "gram" if private.uses_gram(n_items) else "subspace"  # the audited data are smaller than the market's
        chosen = private.model_copy(update={"method": method})
        found.append(Game(EMBEDDING, USER, partial(play_embedding, chosen, noise[EMBEDDING])))
    honest = n_markets - privacy.colluding_markets
    for stage, play in ((SHARED_COUNTS, play_shared_counts), (SHARED_GRAM, play_shared_gram)):
        if stage in noise:
            found.append(Game(stage, USER, partial(play, norm_of(noise[stage], honest), honest)))
    if QUANTIZER in noise:
        choices, steps = dp_sgd(privacy.quantizer, noise[QUANTIZER]), privacy.quantizer.steps_per_round
        rounds = repetitions * (config.federation.rounds - config.federation.warm_up_rounds)
        found += _gradient_games(QUANTIZER, partial(play_gradients, choices, rounds, steps))
        user = partial(play_user, choices, rounds, steps)
        found.append(Game(QUANTIZER, USER, user, most=600, batch=20))
        unclipped = partial(user, codebook=True)
        found.append(Game(QUANTIZER, CODEBOOK, unclipped, most=_PLAIN_GAMES, batch=20, broken=_PLAIN))
    if CTR in noise:
        choices, steps = dp_sgd(privacy.ctr, noise[CTR]), repetitions * privacy.ctr.steps
        found += _gradient_games(CTR, partial(play_gradients, choices, 1, steps))
        found.append(Game(CTR, USER, partial(play_bag, choices, steps), most=400, batch=20))
    return found


def _gradient_games(stage: str, play: Callable[..., Played]) -> list[Game]:
    return [Game(stage, GRADIENTS, play), Game(stage, SUMS, partial(play, summed=True))]


def gather(played: Iterable[Played]) -> Played:
    """All batches of an audit."""
    parts = list(played)
    return Played(np.concatenate([part.inside for part in parts]), np.concatenate([part.outside for part in parts]))


def _audit(game: Game, claim: Claim, canaries: int | None, level: float) -> Audit:
    if canaries is not None:
        return Audit(game, claim, level, max(2, min(canaries // 2, game.most)))
    broken = 2.0 * claim.distance if game.broken is None else game.broken
    needed = canaries_needed(claim, broken, level=level)
    ideal = game.most if needed is None else int(_MARGIN * needed / 2)
    return Audit(game, claim, level, int(np.clip(ideal, _FEWEST, game.most)))


def _one_thread(play: Play, games: int, noise: MakeNoise) -> Played:
    torch.set_num_threads(1)
    return play(games, noise)


def _together(plays: Sequence[Play], games: int, noise: MakeNoise) -> Played:
    """All stages with the same canaries in; what they release is independent given that."""
    first, *others = (play(games, noise) for play in plays)
    return sum(others, start=first)
