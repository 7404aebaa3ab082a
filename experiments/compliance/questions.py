"""Questions of published frameworks, by topic, and what a document answers.

NIST SP 800-226, "Guidelines for Evaluating Differential Privacy Guarantees" (2025); GDPR, Article 35(7);
WP216, Opinion 05/2014 of the Article 29 Working Party on anonymisation, which reads GDPR Recital 26 as three risks;
ISO/IEC 27559:2022, "Privacy enhancing data de-identification framework"; EDPB Opinion 28/2024 on AI models. Topics
are named, clauses are not quoted.
"""

from __future__ import annotations

from experiments.compliance.document import Document, Question
from experiments.compliance.judgement import claimed_unit, evaluation_note, figures_text
from experiments.compliance.sentences import (
    SUM_NAMES,
    account,
    advantage,
    attacks,
    audits,
    beside,
    bounded_stages,
    by_queries,
    compared,
    disclosed,
    in_clear,
    measures,
    mechanisms,
    noise,
    noised,
    second_accountant,
    sentence,
    server,
    sums,
    user_codes,
)

NIST = "NIST SP 800-226"
GDPR = "GDPR Art. 35(7)"
WP216 = "WP216, GDPR Recital 26"
ISO = "ISO/IEC 27559"
EDPB = "EDPB Opinion 28/2024"


def answer_questions(document: Document) -> list[Question]:
    """All questions, in the order of the frameworks."""
    return [*_nist(document), *_gdpr(document), *_wp216(document), *_iso(document), *_edpb(document)]


def answer(document: Document, framework: str, topic: str) -> str:
    """What a document answers on one topic."""
    return next(one.answer for one in document.questions if (one.framework, one.topic) == (framework, topic))


def _nist(document: Document) -> list[Question]:
    release = document.run.protect == "release"
    return [
        _by_run(
            NIST,
            "unit of privacy",
            "Whose contribution is protected?",
            f"{sentence(claimed_unit(document))} Neighbouring data sets differ by adding or removing all these rows. "
            "For a change of one user's rows the figures are stated separately, as (2ε, (1+e^ε)δ).",
        ),
        _by_run(NIST, "privacy parameters", "Which ε and δ, against whom?", figures_text(document)),
        _by_run(
            NIST,
            "variant and conversion",
            "Which definition, and how was it composed?",
            "(ε, δ)-differential privacy from privacy loss distributions of all mechanisms together; "
            + second_accountant(document),
        ),
        _by_run(
            NIST,
            "trust model",
            "Who is trusted with what?",
            f"Each market with its own users' rows. {server(document)} {sums(document)}",
        ),
        _by_run(
            NIST,
            "mechanism",
            "Which mechanisms, with what sensitivity?",
            mechanisms(document),
        ),
        _by_run(
            NIST,
            "mixing with releases that are not private",
            "Is anything published that the guarantee does not cover?",
            f"{sentence(evaluation_note(document.run.private_evaluation))} Item codes, factors and models are "
            + ("covered." if release else "not to be published: the run protects the federation alone."),
        ),
        _by_run(
            NIST,
            "utility and bias",
            "What does the noise cost, and whom?",
            f"Accuracy by market stands in the run's report{beside(document)}. "
            + (
                "Noise does not shrink with a market: in general those of few users lose more, and so do users whose "
                "items are rare. What it costs this run is not measured: there is no run without noise beside it."
                if bounded_stages(document)
                else "No stage adds noise."
            ),
        ),
        _by_run(
            NIST,
            "implementation",
            "Could the code spend more than it says?",
            "Every release passes one door that writes the ledger first and refuses what the plan does not hold. "
            + audits(document),
        ),
        _by_run(
            NIST,
            "side channels",
            "What may leak beside the outputs?",
            f"{noise(document)} "
            + ("" if in_clear(document) else "Ciphertexts of a stage have the same size in every round. ")
            + "Timing is not defended against.",
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
            f"encoder, codebooks and a click-through-rate model of each market. Markets add up "
            f"{', '.join(SUM_NAMES.get(stage, stage) for stage in document.run.summed)}, "
            f"{'in the clear' if in_clear(document) else 'under encryption'}. "
            "No user identifier and no row leaves a market.",
        ),
        _by_controller(GDPR, "(a) purposes and legitimate interest", "Why is it done?", "For the controller to state."),
        _by_controller(
            GDPR,
            "(b) necessity and proportionality",
            "Would less do?",
            f"{compared(document)} Whether the gain justifies the processing is for the controller to weigh.",
        ),
        _by_run(
            GDPR,
            "(c) risks to data subjects",
            "What could be learnt about a person?",
            f"{figures_text(document)} {attacks(document)}",
        ),
        _by_run(
            GDPR,
            "(d) measures",
            "What mitigates the risks?",
            f"{', '.join(measures(document))}; the verdict of this report is "
            + (
                "that the guarantee holds as stated." if document.verdict.compliant else "that it may not be relied on."
            ),
        ),
    ]


def _wp216(document: Document) -> list[Question]:
    asked = {
        "singling out": ("singling-out", "Can one person be told from all others by what is published?"),
        "linkability": ("linkability", "Can two records of one person be found to belong together?"),
        "inference": ("inference", "Can what is not known of a person be told from what is published?"),
    }
    return [_by_run(WP216, topic, question, disclosed(document, kind)) for topic, (kind, question) in asked.items()]


def _iso(document: Document) -> list[Question]:
    audience = (
        "meant to be published" if document.run.protect == "release" else "shared with the markets of the federation"
    )
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
            f"Bounded by ε and δ whatever else is known: {figures_text(document)} {attacks(document)} Singling out, "
            f"linkability and inference stand under {WP216}.",
        ),
        _by_run(
            ISO,
            "mitigation",
            "What was changed to lower it?",
            f"{noised(document)} {user_codes(document)}",
        ),
        _by_controller(
            ISO,
            "governance",
            "Who decides, records and reviews?",
            f"{account(document)} Ledger heads in this report fix the record. "
            "Responsibilities and reviews are for the controller to describe.",
        ),
    ]


def _edpb(document: Document) -> list[Question]:
    return [
        _by_run(
            EDPB,
            "design of the model",
            "Which choices limit what the model can hold about a person?",
            f"{noised(document)} Codes stand in place of embeddings. {user_codes(document)}",
        ),
        _by_run(
            EDPB,
            "testing and resistance to attacks",
            "Was it attacked, and with what success?",
            f"{attacks(document)} Singling out, linkability and inference stand under {WP216}.",
        ),
        _by_run(
            EDPB,
            "documentation",
            "Can the assessment be checked?",
            f"Ledger heads, configuration{' and code' if 'code' in document.environment else ''} are named by hash; "
            "fedmm verify checks this report against the run.",
        ),
        _by_controller(
            EDPB,
            "likelihood of extraction and of answers about persons",
            "Is it insignificant?",
            f"A legal assessment of the controller. {advantage(document)} The profile view has no bound. "
            f"{by_queries(document)}",
        ),
    ]


def _by_run(framework: str, topic: str, question: str, answer: str) -> Question:
    return Question(framework=framework, topic=topic, question=question, answer=answer, by="run")


def _by_controller(framework: str, topic: str, question: str, answer: str) -> Question:
    return Question(framework=framework, topic=topic, question=question, answer=answer, by="controller")
