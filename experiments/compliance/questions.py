"""Questions of published frameworks, by topic, and what a document answers.

NIST SP 800-226, "Guidelines for Evaluating Differential Privacy Guarantees" (2025); GDPR, Article 35(7);
ISO/IEC 27559:2022, "Privacy enhancing data de-identification framework"; EDPB Opinion 28/2024 on AI models. Topics
are named, clauses are not quoted.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.assessment.records import Verdict
from experiments.compliance.document import AttackStated, Document, Question
from experiments.compliance.judgement import (
    claimed_unit,
    counted_attacks,
    counted_audits,
    evaluation_note,
    figures_text,
)

NIST = "NIST SP 800-226"
GDPR = "GDPR Art. 35(7)"
ISO = "ISO/IEC 27559"
EDPB = "EDPB Opinion 28/2024"


def answer_questions(document: Document) -> list[Question]:
    """All questions, in the order of the frameworks."""
    return [*_nist(document), *_gdpr(document), *_iso(document), *_edpb(document)]


def answer(document: Document, framework: str, topic: str) -> str:
    """What a document answers on one topic."""
    return next(one.answer for one in document.questions if (one.framework, one.topic) == (framework, topic))


def _nist(document: Document) -> list[Question]:
    release = document.run.protect == "release"
    stages = sorted({stage for market in document.markets.values() for stage in market.stages})
    return [
        _by_run(
            NIST,
            "unit of privacy",
            "Whose contribution is protected?",
            f"{_sentence(claimed_unit(document))} Neighbouring data sets differ by adding or removing all these rows. "
            "For a change of one user's rows the figures are stated separately, as (2ε, (1+e^ε)δ).",
        ),
        _by_run(NIST, "privacy parameters", "Which ε and δ, against whom?", figures_text(document)),
        _by_run(
            NIST,
            "variant and conversion",
            "Which definition, and how was it composed?",
            "(ε, δ)-differential privacy from privacy loss distributions of all mechanisms together; a second, "
            "independent accountant (PRV) agrees within 1 %.",
        ),
        _by_run(
            NIST,
            "trust model",
            "Who is trusted with what?",
            "Each market with its own users' rows. The server with nothing but availability: it sees ciphertexts "
            f"({document.run.aggregation}) and holds no secret key. Markets see decrypted sums, which carry noise "
            "added in each market before anything leaves it.",
        ),
        _by_run(
            NIST,
            "mechanism",
            "Which mechanisms, with what sensitivity?",
            f"Stages with a mechanism: {', '.join(stages) or 'none'}. Gaussian noise on item counts and on a Gram "
            "matrix (each user's row of norm 1), DP-SGD with Poisson sampling and per-user clipping on the quantiser"
            + (" and the CTR model." if release else "; the market's own CTR model stays inside and has none."),
        ),
        _by_run(
            NIST,
            "mixing with releases that are not private",
            "Is anything published that the guarantee does not cover?",
            f"{_sentence(evaluation_note(document.run.private_evaluation))} Item codes, factors and models are "
            + ("covered." if release else "not to be published: the run protects the federation alone."),
        ),
        _by_run(
            NIST,
            "utility and bias",
            "What does the noise cost, and whom?",
            "Accuracy by market stands in the run's report; markets with fewer users lose more, and so do users "
            "whose items are rare, because rare items drown in the noise of the counts.",
        ),
        _by_run(
            NIST,
            "implementation",
            "Could the code spend more than it says?",
            "Every release passes one door that writes the ledger first and refuses what exceeds the budget. "
            + _audits(document),
        ),
        _by_run(
            NIST,
            "side channels",
            "What may leak beside the outputs?",
            f"{_noise(document)} Ciphertexts have the same size in every round. Timing is not defended against.",
        ),
        _by_controller(
            NIST,
            "data collection exposure",
            "Who could see the data before the mechanism?",
            "The market that collects it. How it is collected, stored and accessed there is outside the run.",
        ),
        _by_controller(
            NIST,
            "security and access control",
            "How are data, keys and outputs kept?",
            "Keys are files readable by their owner, optionally under a passphrase; messages are signed and travel "
            "over TLS in a deployment. Access to the markets' machines is for the controller to describe.",
        ),
    ]


def _gdpr(document: Document) -> list[Question]:
    return [
        _by_run(
            GDPR,
            "(a) description of the processing",
            "What is done with which data?",
            f"Interactions (user, item, optionally rating and time) of {len(document.markets)} markets train an "
            "encoder and codebooks; codebook movements are added up under encryption; codes feed each market's "
            "click-through-rate model. No user identifier and no row leaves a market.",
        ),
        _by_controller(GDPR, "(a) purposes and legitimate interest", "Why is it done?", "For the controller to state."),
        _by_controller(
            GDPR,
            "(b) necessity and proportionality",
            "Would less do?",
            "The run's report gives the accuracy without federation and without codes beside the accuracy with "
            "them; whether the gain justifies the processing is for the controller to weigh.",
        ),
        _by_run(
            GDPR,
            "(c) risks to data subjects",
            "What could be learnt about a person?",
            f"{figures_text(document)} {_attacks(document)}",
        ),
        _by_run(
            GDPR,
            "(d) measures",
            "What mitigates the risks?",
            "User-level differential privacy, encrypted aggregation, a minimum cohort, a ledger that is written "
            "before each release, verification, audits of the code and attacks; the verdict of this report is "
            + (
                "that the guarantee holds as stated." if document.verdict.compliant else "that it may not be relied on."
            ),
        ),
    ]


def _iso(document: Document) -> list[Question]:
    audience = "published" if document.run.protect == "release" else "shared with the markets of the federation"
    return [
        _by_run(
            ISO,
            "context assessment",
            "Who receives what, under which controls?",
            f"Outputs are {audience}. Adversaries and what each of them sees are the views of this report.",
        ),
        _by_run(
            ISO,
            "data assessment",
            "What kind of data is it?",
            "; ".join(
                f"{name}: {market.users} users, {market.items} items" for name, market in document.markets.items()
            ),
        ),
        _by_run(
            ISO,
            "identifiability assessment",
            "How identifiable is a person in the outputs?",
            f"Bounded by ε and δ whatever else is known: {figures_text(document)} {_attacks(document)}",
        ),
        _by_run(
            ISO,
            "mitigation",
            "What was changed to lower it?",
            "Noise is added to every release; user codes stay inside.",
        ),
        _by_controller(
            ISO,
            "governance",
            "Who decides, records and reviews?",
            "The privacy account adds up runs on the same data; ledger heads in this report fix the record. "
            "Responsibilities and reviews are for the controller to describe.",
        ),
    ]


def _edpb(document: Document) -> list[Question]:
    return [
        _by_run(
            EDPB,
            "design of the model",
            "Which choices limit what the model can hold about a person?",
            "Training by mechanisms whose output changes little whoever takes part; codes in place of embeddings; "
            "user codes are never published" + (" unless randomised." if document.run.protect == "release" else "."),
        ),
        _by_run(
            EDPB, "testing and resistance to attacks", "Was it attacked, and with what success?", _attacks(document)
        ),
        _by_run(
            EDPB,
            "documentation",
            "Can the assessment be checked?",
            "Ledger heads, configuration and code are named by hash; fedmm verify checks this report against the run.",
        ),
        _by_controller(
            EDPB,
            "likelihood of extraction and of answers about persons",
            "Is it insignificant?",
            "A legal assessment of the controller. The figures above bound the advantage of any attacker against "
            "each view; the profile view has no bound.",
        ),
    ]


def _noise(document: Document) -> str:
    if all(market.ledger.exact for market in document.markets.values()):
        return (
            "All noise is integers of an exact law (discrete Gaussian, randomised response) from a stream cipher with "
            "a 256-bit key of the operating system, added to sums of integers: its digits tell nothing of a summand."
        )
    return "Some noise is not from an exact integer mechanism: the digits of what is released can tell who took part."


def _audits(document: Document) -> str:
    verdicts = [audit.verdict for name in document.markets for audit in counted_audits(document, name)]
    if not verdicts:
        return "No audit of the code counts."
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in ("not refuted", "VIOLATED"))
    return f"Audits of the code with canaries, signed from outside the run: {counts}."


def _attacks(document: Document) -> str:
    counted = counted_attacks(document)
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


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _strongest(attacks: Sequence[AttackStated]) -> str:
    return _described(max(attacks, key=lambda attack: attack.success - (attack.chance or 0.0)))


def _described(attack: AttackStated) -> str:
    return f"{attack.attack}, {attack.view} view, {attack.measure} {attack.success:.3f}"


def _by_run(framework: str, topic: str, question: str, answer: str) -> Question:
    return Question(framework=framework, topic=topic, question=question, answer=answer, by="run")


def _by_controller(framework: str, topic: str, question: str, answer: str) -> Question:
    return Question(framework=framework, topic=topic, question=question, answer=answer, by="controller")
