"""Every attack: what it is called, what its adversary has, how it is made, how what it found is read.

Command, help, page, sweep table and compliance report are fed from these records alone. They hold text and a dotted
path: what makes an attack is imported when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.assessment.record import Attack, AttackResult, Column, verdict_text
from experiments.presentation.text import estimate_text

DEFAULT_SHADOWS = 16


def _text(heading: str, key: str) -> Column:
    return Column(heading, lambda result: str(result[key]))


def _estimate(heading: str, key: str) -> Column:
    return Column(heading, lambda result: estimate_text(result[key]))


def _number(heading: str, key: str, digits: int = 3) -> Column:
    """A number, or the value of an estimate; a dash where there is none."""

    def cell(result: AttackResult) -> str:
        found = result[key]
        value = found["value"] if isinstance(found, Mapping) else found
        return "-" if value is None else f"{value:.{digits}f}"

    return Column(heading, cell)


def _published(result: AttackResult) -> str:
    """Nothing is published without ``protect: release``: the white box is then what it would be."""
    hypothetical = "release" in result["view"] and not result["published"]
    return f"{result['view']} (if published)" if hypothetical else str(result["view"])


_MARKET, _VIEW, _ATTACK = _text("market", "market"), _text("view", "view"), _text("attack", "attack")
_AGGREGATION = _text("aggregation", "aggregation")
_FEDERATION = ("server", "market", "collusion")

_INVERSION = Attack(
    name="inversion",
    title="recovery of single updates",
    prior_knowledge="public material; the shared key, where a market is part of the adversary",
    views=_FEDERATION,
    path="experiments.assessment.codebooks:invert",
    about=("view", "aggregation"),
    columns=(
        _VIEW,
        _AGGREGATION,
        _text("markets", "cohort"),
        _estimate("updates recovered exactly", "exact_share"),
        _estimate("cosine", "cosine"),
        _estimate("sender identified", "identified"),
        _number("chance", "chance"),
    ),
    tried="single updates recovered exactly ({aggregation}, {cohort} markets)",
    measure="share",
    success="exact_share",
    over="messages of this run",
)
_RECONSTRUCTION = Attack(
    name="reconstruction",
    title="reconstruction of user embeddings",
    prior_knowledge="the method, the public initial model, another market's models",
    views=("release and profile", "release", *_FEDERATION),
    path="experiments.assessment.codebooks:reconstruct",
    about=("market", "view", "attack", "aggregation"),
    columns=(
        _MARKET,
        Column("view", _published),
        _ATTACK,
        _estimate("cosine", "cosine"),
        _estimate("prior alone", "prior"),
        _estimate("advantage", "advantage"),
        _number("cosine ≥ .9", "matched"),
        _number("prior", "prior_matched"),
        _number("identified", "identified"),
    ),
    tried="user embeddings rebuilt in {market}: {attack}",
    measure="cosine",
    success="cosine",
    over="users of this one model",
    chance="prior",
    figure="experiments.assessment.figures:draw_reconstruction",
)
_USAGE = Attack(
    name="usage",
    title="use of global codes",
    prior_knowledge="embeddings of the market's users; the public initial model",
    views=_FEDERATION,
    path="experiments.assessment.codebooks:find_usage",
    about=("market", "view", "aggregation"),
    columns=(
        _MARKET,
        _VIEW,
        _AGGREGATION,
        _number("AUC of used codes", "used_auc"),
        _estimate("rank correlation", "rank_correlation"),
        _number("shared (ARI)", "sharing"),
        _number("prior", "sharing_prior"),
    ),
    tried="how many users of {market} have each code ({aggregation})",
    measure="rank correlation",
    success="rank_correlation",
    over="codes of this one model",
    chance=0.0,
)
_HISTORIES = Attack(
    name="histories",
    title="recovery of training items",
    prior_knowledge="the users' codes; popularity of items in the market's training rows",
    views=("release and profile",),
    path="experiments.assessment.codebooks:name_items",
    about=("market", "view", "attack"),
    columns=(
        _MARKET,
        Column("view", _published),
        _ATTACK,
        _text("users", "users"),
        _estimate("precision at 10", "precision"),
        _estimate("popularity", "prior"),
        _estimate("advantage", "advantage"),
    ),
    tried="training items of users in {market}: {attack}",
    measure="precision at 10",
    success="precision",
    over="users of this one model",
    chance="prior",
    same=("market", "view"),
)
_MEMBERSHIP = Attack(
    name="membership",
    title="membership inference",
    prior_knowledge="all rows of the market, but not which of them were trained on",
    views=("server", "market", "collusion", "consumer", "release", "profile"),
    path="experiments.assessment.membership:infer_membership",
    about=("market", "target", "view", "attack", "unit"),
    columns=(
        _MARKET,
        _text("target", "target"),
        _text("unit", "unit"),
        _VIEW,
        _ATTACK,
        _estimate("AUC", "auc"),
        _estimate("TPR at 1 % FPR", "tpr_at_1_percent_fpr"),
        _text("models", "targets"),
        Column("guarantee", verdict_text),
    ),
    tried="membership of {unit}s in {market}: {attack} on {target}",
    measure="AUC",
    success="auc",
    over="pipelines, each trained by itself",
    chance=0.5,
    tpr="tpr_at_1_percent_fpr",
    same=("market", "target", "unit", "view"),
)


def _by_queries(result: AttackResult) -> str:
    return f"{result['asked']:.1f} queries about each on average; verdicts are those of membership inference"


_QUERIES = Attack(
    name="query-budget",
    title="membership inference by number of queries about a target",
    prior_knowledge="all rows of the market, but not which of them were trained on",
    views=("consumer",),
    path="experiments.assessment.query_budgets:infer_with_budgets",
    about=("market", "target", "unit", "limit"),
    columns=(
        _MARKET,
        _text("target", "target"),
        _text("unit", "unit"),
        _text("about each target", "limit"),
        _number("on average", "asked", 1),
        _estimate("AUC", "auc"),
        _estimate("TPR at 1 % FPR", "tpr_at_1_percent_fpr"),
        _text("models", "targets"),
    ),
    tried="membership of {unit}s in {market}, by {limit} about each: on {target}",
    measure="AUC",
    success="auc",
    over="pipelines, each trained by itself",
    chance=0.5,
    tpr="tpr_at_1_percent_fpr",
    figure="experiments.assessment.figures:draw_queries",
    says=_by_queries,
)
_POISONING = Attack(
    name="poisoning",
    title="poisoning by a malicious market",
    prior_knowledge="the cohort's size, the codebook of each round, its own rows",
    views=("market",),
    path="experiments.assessment.poisoning:poison_others",
    about=("market", "strategy", "defence"),
    columns=(
        _text("attacker", "market"),
        _text("strategy", "strategy"),
        _text("joined by", "defence"),
        _estimate("AUC of the others", "auc"),
        _estimate("AUC lost", "loss"),
        _number("codes used", "codes", 1),
        _number("codes kept (ARI)", "agreement", 2),
    ),
    tried="accuracy of the others damaged by {market}: {strategy}, joined by {defence}",
    measure="AUC lost",
    success="loss",
    over="the other markets",
    chance=0.0,
    same=("market", "defence"),
)


def _disclosed(result: AttackResult) -> str:
    risk, control = result["risk"], result["control"]["value"]
    return f"risk {estimate_text(risk)} beyond users left out, of whom the same finds {control:.3f}"


def _disclosure(name: str, title: str, prior_knowledge: str, path: str, by_scores: str) -> Attack:
    """One of the risks of WP216, by the protocol of Giomi et al. (PETS 2023)."""
    return Attack(
        name=name,
        title=f"{title} (GDPR Recital 26, WP216, EDPB Opinion 28/2024, ISO/IEC 27559)",
        prior_knowledge=prior_knowledge,
        views=("release and profile", "release", by_scores),
        path=f"experiments.assessment.disclosure:{path}",
        about=("market", "target", "source", "attack"),
        columns=(
            _MARKET,
            _text("published", "source"),
            _ATTACK,
            _text("attacks", "users"),
            _estimate("succeed", "success"),
            _estimate("users left out", "control"),
            _number("prior alone", "prior"),
            _estimate("risk", "risk"),
            _estimate("over the prior", "over_prior"),
        ),
        tried=f"{title} in {{market}}, from {{source}}: {{attack}}",
        measure="share of attacks",
        success="success",
        over="attacks on two releases of this market",
        chance="prior",
        says=_disclosed,
    )


_RISKS = (
    _disclosure(
        "singling-out",
        "singling out",
        "how many users there are; how many rows each has, or what is popular",
        "single_out_users",
        "consumer",
    ),
    _disclosure("linkability", "linkability", "how many rows each record was made from", "link_records", "profile"),
    _disclosure(
        "inference",
        "inference",
        "half of the user's rows, or who left between two releases; what is popular",
        "infer_other_items",
        "consumer",
    ),
)
RISKS = tuple(risk.name for risk in _RISKS)
"""What regulators ask of whatever is published about people."""

_EXTRACTION = Attack(
    name="extraction",
    title="extraction of the model",
    prior_knowledge="the catalogue; how popular each item is",
    views=("consumer",),
    path="experiments.assessment.extraction:copy_models",
    about=("market", "target", "accounts", "budget"),
    columns=(
        _MARKET,
        _text("target", "target"),
        _text("accounts", "accounts"),
        _text("items asked of each", "budget"),
        _text("queries", "queries"),
        _estimate("rank correlation", "fidelity"),
        _number("popularity", "prior"),
    ),
    tried="a copy of {target} in {market}: {accounts} accounts, {budget} items asked of each",
    measure="rank correlation",
    success="fidelity",
    over="accounts of users whom the model does not know",
    chance="prior",
)

_PROPERTY = Attack(
    name="property",
    title="inference of a property of the market",
    prior_knowledge="the market's users, but not which share of them is in it",
    views=("market", "release"),
    path="experiments.assessment.properties:infer_properties",
    about=("market", "view", "property"),
    columns=(_MARKET, _VIEW, _text("property", "property"), _text("worlds", "worlds"), _estimate("told", "accuracy")),
    tried="many or few in {market}: {property}",
    measure="share of worlds told apart",
    success="accuracy",
    over="worlds, each trained by itself",
    chance=0.5,
)

ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        _INVERSION,
        _RECONSTRUCTION,
        _USAGE,
        _HISTORIES,
        _MEMBERSHIP,
        _QUERIES,
        *_RISKS,
        _EXTRACTION,
        _PROPERTY,
        _POISONING,
    )
}


def infers_membership(name: str) -> bool:
    """Whether an attack of this name asks who is among the users: what a guarantee is held against."""
    attack = ATTACKS.get(name)
    return attack is not None and attack.tpr is not None
