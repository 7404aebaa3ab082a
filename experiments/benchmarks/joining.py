"""What a federation is worth to a market that joins: AUC against the share of its users that it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import joblib
import numpy as np
from sklearn.metrics import roc_auc_score

from experiments.presentation.steps import track
from fedmm_secure.config import Config
from fedmm_secure.ctr.metrics import Interval, paired_auc_difference, seed_interval
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket, prepare_markets
from fedmm_secure.federation.account import enter_without_bound
from fedmm_secure.heads.examples import head_examples, market_examples, some_users
from fedmm_secure.heads.generated import generated_head
from fedmm_secure.heads.own import own_head
from fedmm_secure.heads.trees import Bins, Head, HeadGrower, fit_head
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.run_directory import default_directory

SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
RESAMPLES = 200


@dataclass(frozen=True)
class JoiningPoint:
    """A market that knows a share of its users, judged on the test candidates of all of them.

    Attributes:
        market: its name.
        share: of its users that it knows.
        users: how many those are.
        draws: how often they were drawn.
        popularity: test AUC of the order by rows that it knows, mean and interval over draws.
        alone: of the better of that order and a head of its own, in each draw: chosen by the test, in its favour.
        generated: of a head of generated markets, which nobody's rows are in; of the market's rows it knows the
            features.
        federation: of a head that was fitted to the other markets alone, likewise; None without ``head.trees``.
        both: of a head of its own that is told what ``federation`` says, or without it ``generated``; as those where
            none can be fitted.
        gain: ``federation``, or without it ``generated``, minus ``alone``, paired, a bootstrap over users.
    """

    market: str
    share: float
    users: int
    draws: int
    popularity: Interval
    alone: Interval
    generated: Interval
    federation: Interval | None
    both: Interval
    gain: Interval

    @property
    def head(self) -> Interval:
        """Of the head that ``gain`` is about."""
        return self.federation or self.generated


@dataclass(frozen=True)
class Worth:
    """How many users a market needs, on its own, to do as well as the head that it starts from does.

    Attributes:
        market: its name.
        users: of the whole market.
        crossing: users at which its own head is as good as the one that it starts from with the same users: 0 where it
            is from the smallest share on, None where it never is.
        at_least: users that it needs alone to do as well as with that head and the smallest share, likewise.
    """

    market: str
    users: int
    crossing: float | None
    at_least: float | None


def measure_joining(
    config: Config,
    shares: Sequence[float] = SHARES,
    draws: int = 5,
    workers: int = 1,
) -> list[JoiningPoint]:
    """The learning curve of each market, left out of the federation in turn; ids are never compared.

    Without ``head.trees``, as with a budget, a market starts from a head of generated markets. The federation's head is
    what markets that add histograms would have: sums of integers do not depend on where examples are (``heads.trees``),
    so it is fitted in one place here. What is printed are exact figures of raw rows, which a later choice may rest on:
    each market's account has it as a run without a budget.
    """
    markets = prepare_markets(config.data)
    enter_without_bound(config, default_directory("joining"), *markets.values())
    largest = sorted(markets, key=lambda name: -markets[name].market.n_rows)
    drawn = {share: range(draws if share < 1 else 1) for share in sorted(set(shares))}
    places = [(name, share, draw) for name in largest for share in reversed(drawn) for draw in drawn[share]]
    generated = generated_head(config.data)
    with joblib.Parallel(n_jobs=workers, return_as="generator_unordered") as parallel:
        heads = {name: {"generated": generated} for name in largest}
        if config.head.trees:
            examples = parallel(joblib.delayed(_for_head)(name, markets[name], config) for name in largest)
            parts = dict(track("examples", examples, len(markets)))
            fitted = parallel(joblib.delayed(_leave_out)(name, parts, config) for name in largest)
            for name, head in track("heads", fitted, len(markets)):
                heads[name]["federation"] = head
        judged = parallel(joblib.delayed(_judge)(place, markets[place[0]], heads[place[0]], config) for place in places)
        scores = dict(track("shares", judged, len(places)))
        points = list(
            track(
                "intervals",
                parallel(
                    joblib.delayed(_point)(
                        name, share, [scores[name, share, draw] for draw in drawn[share]], markets[name]
                    )
                    for name in largest
                    for share in drawn
                ),
                len(markets) * len(drawn),
            )
        )
    return sorted(points, key=lambda point: (point.market, point.share))


def worth(points: Sequence[JoiningPoint]) -> list[Worth]:
    """How many users of its own the federation is worth to each market: between points, linear in log users."""
    found = []
    for market in sorted({point.market for point in points}):
        curve = sorted((point for point in points if point.market == market), key=lambda point: point.users)
        users = np.log([point.users for point in curve])
        alone, head = np.array([[point.alone.mean, point.head.mean] for point in curve]).T
        crossing = _first_above(users, alone - head)
        found.append(Worth(market, curve[-1].users, crossing, _first_above(users, alone - head[0])))
    return found


def _first_above(log_users: FloatArray, difference: FloatArray) -> float | None:
    """Users at which a difference first reaches 0; 0 where it does from the start, None where it never does."""
    above = np.flatnonzero(difference >= 0.0)
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return 0.0
    step = -difference[at - 1] / (difference[at] - difference[at - 1])
    return float(np.exp(log_users[at - 1] + step * (log_users[at] - log_users[at - 1])))


_Draw = tuple[str, float, int]
_Scores = Mapping[str, FloatArray]


def _for_head(name: str, prepared: PreparedMarket, config: Config) -> tuple[str, tuple[Bins, FloatArray]]:
    return name, head_examples(prepared, config)


def _leave_out(name: str, parts: Mapping[str, tuple[Bins, FloatArray]], config: Config) -> tuple[str, Head]:
    others = [part for market, part in parts.items() if market != name]
    return name, fit_head(HeadGrower.of(config), others)


def _judge(place: _Draw, prepared: PreparedMarket, heads: Mapping[str, Head], config: Config) -> tuple[_Draw, _Scores]:
    name, share, draw = place
    known = some_users(prepared.market.n_users, share, name, draw)
    examples = market_examples(prepared, config, known)
    label, popularity = examples.test.label, examples.popularity
    found = {whose: head.log_odds(examples.test.bins) for whose, head in heads.items()}
    start = _start(heads)
    own, both = (own_head(examples, told, name, draw) for told in (None, heads[start]))
    better = own is not None and roc_auc_score(label, own.test) > roc_auc_score(label, popularity)
    alone = own.test if own is not None and better else popularity
    told = found[start] if both is None else both.test
    return place, {"popularity": popularity, "alone": alone, **found, "both": told}


def _start(heads: Mapping[str, object]) -> str:
    """Whose head a market starts from."""
    return "federation" if "federation" in heads else "generated"


def _point(market: str, share: float, scores: Sequence[_Scores], prepared: PreparedMarket) -> JoiningPoint:
    label = prepared.test.label
    figures = {
        name: seed_interval([float(roc_auc_score(label, found[name])) for found in scores]) for name in scores[0]
    }
    start = _start(scores[0])
    gain = paired_auc_difference(
        prepared.test,
        [found[start] for found in scores],
        [found["alone"] for found in scores],
        resamples=RESAMPLES,
        rng=numpy_generator("joining", market, str(share)),
    )
    users = int(some_users(prepared.market.n_users, share, market, 0).sum())
    return JoiningPoint(
        market,
        share,
        users,
        len(scores),
        popularity=figures["popularity"],
        alone=figures["alone"],
        generated=figures["generated"],
        federation=figures.get("federation"),
        both=figures["both"],
        gain=gain,
    )
