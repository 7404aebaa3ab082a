"""Sentences of a report's answers: each from what the document holds, and nothing that it does not show."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.assessment.record import Verdict
from experiments.assessment.records import RISKS
from experiments.compliance.document import AttackStated, Document
from experiments.compliance.judgement import claimed, counted_attacks, counted_audits, counted_canary_users
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, HEAD, QUANTIZER, SUMMED, USER_CODES
from privacy.accounting.text import epsilon_text
from privacy.aggregation.kinds import TRAITS, Traits

SUM_NAMES = {QUANTIZER: "codebook movements", SUMMED[0]: "item counts", SUMMED[1]: "co-occurrence of items",
         HEAD: "gradient histograms of a head"}  # fmt: skip


def _traits(document: Document) -> Traits:
    return TRAITS.get(document.run.aggregation, Traits(server_reads_updates=True))  # of what is not known, the worst


def in_clear(document: Document) -> bool:
    """Whether the server reads single updates."""
    return _traits(document).server_reads_updates


def _by_bound(document: Document, bounded: bool) -> dict[str, set[str]]:
    """Mechanisms by stage: of stages with an ε in every market, or of the others."""
    stages = sorted({stage for market in document.markets.values() for stage in market.stages})
    unbounded = {
        stage for stage in stages if any(market.stages.get(stage) is None for market in document.markets.values())
    }
    return {
        stage: {market.mechanisms[stage] for market in document.markets.values() if stage in market.mechanisms}
        for stage in stages
        if (stage not in unbounded) is bounded
    }


def bounded_stages(document: Document) -> dict[str, set[str]]:
    """By stage with a privacy bound, the mechanisms that ledgers name."""
    return _by_bound(document, True)


def mechanisms(document: Document) -> str:
    """Each stage's mechanism, and which stages have none."""
    found, without = bounded_stages(document), list(_by_bound(document, False))
    parts = [f"{stage}: {' or '.join(sorted(texts)) or 'not named in a ledger'}" for stage, texts in found.items()]
    text = f"{'; '.join(parts)}." if parts else "None: no stage has a mechanism."
    if {COUNTS, EMBEDDING, *SUMMED} & found.keys():
        text += " One user moves counts, and a Gram matrix, by norm 1 at most."
    if {QUANTIZER, CTR} & found.keys():
        text += " DP-SGD samples users by Poisson's law and clips each user's part to the clipping norm."
    return f"{text} Without a guarantee: {', '.join(without)}." if without else text


def noised(document: Document) -> str:
    """Which stages add noise, and which do not."""
    found, without = bounded_stages(document), list(_by_bound(document, False))
    text = f"Noise by a mechanism: {', '.join(found)}." if found else "No stage adds noise."
    return f"{text} None: {', '.join(without)}." if found and without else text


def server(document: Document) -> str:
    """What the server is trusted with."""
    kind = document.run.aggregation
    if in_clear(document):
        return f"The server with every market's updates: it reads them in the clear ({kind})."
    return f"The server with nothing but availability: it sees ciphertexts ({kind}) and holds no secret key."


def sums(document: Document) -> str:
    """What markets add up, with noise and without."""
    found = bounded_stages(document)
    noisy = [stage for stage in document.run.summed if stage in found]
    exact = [stage for stage in document.run.summed if stage not in found]
    texts = [
        f"{text}: {', '.join(stages)}"
        for text, stages in (
            ("with noise that is added in the markets before anything leaves them", noisy),
            ("exact", exact),
        )
        if stages
    ]
    return f"Markets see sums, {'; '.join(texts)}."


def second_accountant(document: Document) -> str:
    """What may be said of a second accountant; the end of a sentence."""
    if any(figure.epsilon is None for figure in claimed(document)):
        return "nothing bounds some claimed figure."
    if not document.verification.verified:
        return "verification has findings, so that a second accountant's word is not claimed."
    return "a second, independent accountant (PRV) agrees within 1 % on the run's own figures."


def beside(document: Document) -> str:
    """The baselines that were trained, too; the end of a sentence, or nothing."""
    baselines = document.run.baselines
    return f", beside {', '.join(baselines)}" if baselines else ""


def compared(document: Document) -> str:
    """What the run has measured of doing without."""
    if not document.run.baselines:
        return "Not measured: the run's report shows no other model beside the configured one."
    absent = [text for name, text in _WITHOUT.items() if name not in document.run.baselines]
    text = f"The run's report gives the accuracy of {', '.join(document.run.baselines)} beside that of the model."
    return f"{text} Not measured: {', '.join(absent)}." if absent else text


_WITHOUT = {
    "local-codes": "codes without federation",
    "local-ids": "a model of ids without codes",
}  # by the baseline that measures it


def measures(document: Document) -> list[str]:
    """Of this run, and no others."""
    cohort, found = document.run.smallest_cohort, bounded_stages(document)
    audits = any(counted_audits(document, name) for name in document.markets)
    measures = [
        (bool(found), f"user-level differential privacy ({', '.join(found)})"),
        (not in_clear(document), f"encrypted aggregation ({document.run.aggregation})"),
        (cohort > 1, f"sums of at least {cohort} markets"),
        (True, "a ledger that is written before each release"),
        (document.verification.verified, "verification without findings"),
        (audits, "audits of the code"),
        (bool(counted_attacks(document)), "attacks on the run"),
    ]
    said = [text for present, text in measures if present]
    return [capital(said[0]), *said[1:]]


def user_codes(document: Document) -> str:
    """Whether users' codes are published."""
    randomised = [market for market in document.markets.values() if USER_CODES in market.mechanisms]
    return "User codes are published randomised alone." if randomised else "User codes stay inside."


def account(document: Document) -> str:
    """Whether, and where, the runs on these data add up."""
    if document.run.synthetic:
        return "The rows are generated and nobody's: no privacy account holds them."
    if any(market.all_runs.runs is None for market in document.markets.values()):
        return "No privacy account of all markets' runs can be read."
    return f"The privacy account adds up runs on the same data. {ceiling(document)}"


def ceiling(document: Document) -> str:
    """Whether the first run on the data fixed what all may come to together."""
    fixed = [market.all_runs.ceiling for market in document.markets.values()]
    known = [epsilon for epsilon in fixed if epsilon is not None]
    if len(known) < len(fixed):
        return "No ceiling on what they come to together was fixed by the first of them."
    return f"The first of them fixed a ceiling on all together, ε {epsilon_text(max(known))}; the account enforces it."


def advantage(document: Document) -> str:
    """For which views the figures bound an attacker's advantage."""
    by_view: dict[str, list[float | None]] = {}
    for figure in claimed(document):
        by_view.setdefault(figure.view, []).append(figure.epsilon)
    bounded = [view for view, epsilons in by_view.items() if None not in epsilons]
    if not bounded:
        return "No view has a figure that bounds the advantage of an attacker."
    return f"The figures above bound the advantage of any attacker against these views: {', '.join(bounded)}."


def noise(document: Document) -> str:
    """Where the noise comes from."""
    if not bounded_stages(document):
        return "No stage adds noise that bounds anything."
    if all(market.ledger.exact for market in document.markets.values()):
        auditor = document.run.replay_auditor
        key = (
            "a 256-bit key of the operating system"
            if auditor is None
            else f"a key of 256 bits that the market and the auditor {auditor} tossed, and that this auditor knows"
        )
        return (
            "All noise is integers of an exact law (discrete Gaussian, randomised response) from a stream cipher with "
            f"{key}, added to sums of integers: its digits tell nothing of a summand."
        )
    return "Some noise is not from an exact integer mechanism: the digits of what is released can tell who took part."


def audits(document: Document) -> str:
    """What the audits that count came to, and what canaries of the run showed."""
    verdicts = [audit.verdict for name in document.markets for audit in counted_audits(document, name)]
    shown = f"{_canaries(document)}{_canary_users(document)}"
    if not verdicts:
        return f"No audit of the code counts.{shown}"
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("not refuted", "VIOLATED"))
    return f"Audits of the code with canaries, signed from outside the run: {counts}.{shown}"


def _canaries(document: Document) -> str:
    """What the run itself drew, as far as its canaries show it."""
    found = [one for market in document.markets.values() for one in market.canaries]
    if not found:
        return ""
    noise, weight = min(one.noise.value for one in found), max(one.weight.value for one in found)
    other = sum(one.verdict != "as stated" for one in found)
    judged = "all as stated" if not other else f"{other} not as stated"
    return (
        f" Canaries in {len(found)} stages of the run itself: noise {noise:.3f} of what is stated at least, a canary "
        f"{weight:.3f} of what it may weigh at most; {judged}."
    )


def _canary_users(document: Document) -> str:
    """What the run published of an auditor's synthetic users among its rows."""
    found = {name: counted_canary_users(document, name) for name in document.markets}
    texts = []
    for name, readings in found.items():
        if readings:
            verdicts = "; ".join(f"{one.reading} {one.verdict}" for one in readings)
            texts.append(f" Canary users of {name}, {readings[0].present} of {readings[0].candidates} in: {verdicts}.")
    return "".join(texts)


def disclosed(document: Document, kind: str) -> str:
    """What attacks of one kind of risk found, the most successful first."""
    found = [attack for attack in counted_attacks(document) if attack.kind == kind]
    if not found:
        return "Not measured: no such attack counts."
    texts = []
    for attack in sorted(found, key=lambda attack: -attack.success):
        interval = f"{attack.success:.3f} [{attack.low:.3f}, {attack.high:.3f}]"
        texts.append(f"{attack.attack}, {attack.view} view: {attack.measure} that succeed {interval}; {attack.says}")
    return f"{'. '.join(map(capital, texts))}."


def attacks(document: Document) -> str:
    """The strongest attacks; those of ``RISKS`` are of another measure, and have answers of their own."""
    counted = [attack for attack in counted_attacks(document) if attack.kind not in RISKS]
    if not counted:
        return "No attack counts."
    bounded = [attack for attack in counted if attack.verdict is not None]
    free = [attack for attack in counted if attack.verdict is None]
    texts = [
        f"{kind}: {_strongest(found)}" for kind, found in (("with a guarantee", bounded), ("without", free)) if found
    ]
    beyond = [attack for attack in bounded if attack.verdict is Verdict.BEYOND]
    verdict = f" Beyond what a guarantee admits: {'; '.join(map(_described, beyond))}." if beyond else ""
    return f"Strongest of {len(counted)} attacks, {'; '.join(texts)}.{verdict}"


def by_queries(document: Document) -> str:
    """What a stranger with accounts learns about a person by how much is asked; nothing where that was not measured."""
    asked = [attack for attack in counted_attacks(document) if attack.kind == "query-budget"]
    if not asked:
        return "What means an attack would take, in queries about one person, was not measured."
    texts = [
        f"{attack.attack} ({attack.says}): AUC {attack.success:.3f} [{attack.low:.3f}, {attack.high:.3f}]"
        for attack in sorted(asked, key=lambda attack: attack.success)
    ]
    return f"Means that it takes, in queries about one person: {'; '.join(texts)}."


def capital(text: str) -> str:
    """Text with its first letter in upper case."""
    return f"{text[0].upper()}{text[1:]}"


def sentence(text: str) -> str:
    """Text as a sentence of its own."""
    return f"{capital(text)}."


def _strongest(attacks: Sequence[AttackStated]) -> str:
    return _described(max(attacks, key=lambda attack: attack.success - (attack.chance or 0.0)))


def _described(attack: AttackStated) -> str:
    return f"{attack.attack}, {attack.view} view, {attack.measure} {attack.success:.3f}"
