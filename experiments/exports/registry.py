"""A compliance document as a draft record of the differential-privacy deployments registry (OpenDP and NIST).

What the run shows is filled in; what only its publisher knows says so, by ``OPEN``, and is listed in the notes.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from experiments.compliance.document import Document
from experiments.compliance.judgement import (
    claimed,
    claimed_text,
    claimed_unit,
    evaluation_note,
    figures_text,
    scope,
)
from experiments.compliance.questions import ISO, NIST, answer
from experiments.compliance.sentences import ceiling
from experiments.exports.registry_record import (
    Accounting,
    Administrative,
    Basic,
    Deployment,
    DeploymentModel,
    Implementation,
    PrivacyLoss,
    PrivacyParameters,
    RegistryRecord,
    Variant,
)
from experiments.presentation.text import PERSON, catalogue_lines, worst
from fedmm_secure.errors import RunDirectoryError
from privacy.accounting.text import delta_text, epsilon_text
from privacy.files import write_atomic

REGISTRY_FILE = "registry.yaml"
LEFT_OPEN = "OPEN: "
UNPUBLISHED = "1900-01-01"  # what the registry's own template has where a date is to be filled in
_OF_PUBLISHER = (
    "basic.data_curators, basic.intended_use, basic.data_product_region, administrative.registry_authors",
    f"basic.publication_date, which has to be a date: {UNPUBLISHED} is the placeholder of the registry's template",
    "basic.data_product_sector, left out",
    "administrative.sources: where the product and a description of it can be had",
    "implementation.justification, and in deployment_model.release_type_details what is planned with the same data",
    "url_slug follows from name, curator and year: scripts/update_slug.py of the registry makes it again",
)


class RegistryError(RunDirectoryError):
    """A run that has no place in a registry of differential privacy; says why."""


def registry_record(document: Document) -> RegistryRecord:
    """The record.

    Raises:
        RegistryError: the run does not verify, or some claimed view has no bound.
    """
    name, run = document.run.name, document.run
    if not document.verification.verified:
        found = len(document.verification.findings)
        raise RegistryError(f"{name}: does not verify, so that no record is made of it: {found} findings; fedmm verify")
    basic = Basic(
        name=f"Federated recommendation, run {name}",
        data_curators=[f"{LEFT_OPEN}who publishes it"],
        intended_use=f"{LEFT_OPEN}what it is published for",
        data_product_type="Machine learning model",
        data_product_region=f"{LEFT_OPEN}which region the data describes",
        description=_description(document),
        publication_date=UNPUBLISHED,
    )
    deployment = Deployment(
        basic=basic,
        dp_variant=Variant(
            variant_name="Approximate DP",
            data_domain="Interactions of users with items (user, item, optionally rating and time); "
            + answer(document, ISO, "data assessment")
            + ". "
            + _catalogues(document),
            unprotected_quantities=_lines([evaluation_note(run.private_evaluation), *document.not_guaranteed]),
        ),
        privacy_loss=_privacy_loss(document),
        deployment_model=_model(document),
        accounting=Accounting(
            post_processing=_lines(_mechanisms(document, post_processing=True) or ["None."]),
            composition=answer(document, NIST, "variant and conversion"),
        ),
        implementation=Implementation(
            preprocessing_and_hyperparameter_tuning=_tuning(document),
            mechanisms=_lines(
                [
                    answer(document, NIST, "mechanism"),
                    *_mechanisms(document, post_processing=False),
                    answer(document, NIST, "side channels"),
                    answer(document, NIST, "implementation"),
                    f"Versions: {', '.join(f'{key} {value}' for key, value in document.environment.items())}.",
                ]
            ),
            justification=f"{LEFT_OPEN}why these choices were made",
        ),
        administrative=Administrative(
            sources=f"{LEFT_OPEN}where the product and a description of it can be had",
            notes=_notes(document),
            registry_authors=[f"{LEFT_OPEN}who fills in the rest"],
        ),
    )
    return RegistryRecord(url_slug=_slug(basic), tier=3, deployment=deployment)


def registry_text(record: RegistryRecord) -> str:
    """A record as YAML in the registry's manner: long texts as literal blocks, none folded."""
    return yaml.dump(
        record.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=False
    )


def write_registry(directory: Path, record: RegistryRecord) -> Path:
    """Write ``registry.yaml``; returns its path."""
    write_atomic(directory / REGISTRY_FILE, registry_text(record).encode())
    return directory / REGISTRY_FILE


class _Dumper(yaml.SafeDumper):
    pass


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def _slug(basic: Basic) -> str:
    """As the registry makes it: name, curators and year, each run of other characters a hyphen."""
    parts = (basic.name, "-".join(basic.data_curators), basic.publication_date[:4])
    return "_".join(re.sub(r"\W+", "_", part.lower()) for part in parts).replace("_", "-")


def _description(document: Document) -> str:
    public = document.run.protect == "release"
    what = (
        "Noisy item counts, item factors, quantisers, item codes and click-through-rate models"
        if public
        else "Codebooks that the markets of a federation train together; nothing is published beyond them"
    )
    nobody = " The rows are synthetic and nobody's." if document.run.synthetic else ""
    return f"{what}, of {len(document.markets)} markets.{nobody}"


def _privacy_loss(document: Document) -> PrivacyLoss:
    """The largest ε and δ of all claimed figures; of people in several markets, where those are claimed for them."""
    figures = claimed(document)
    epsilon = worst(found.epsilon for found in figures)
    if epsilon is None:
        unbounded = [found for found in figures if found.epsilon is None]
        what = "; ".join(f"{found.view}, of {found.unit}: {claimed_text(document, found)}" for found in unbounded)
        raise RegistryError(
            f"{document.run.name}: nothing bounds what is learnt ({what}), so that no record is made of it: run it "
            "with privacy.epsilon, on data whose account holds no run without, and report on all markets together"
        )
    lines = ["The record has the largest ε and δ of these.", figures_text(document)]
    lines += [f"{view} view: {_bases(document, view)}" for view in document.run.claimed_views]
    if document.across_markets.problem is None:
        lines += [
            f"{PERSON[0].upper()}{PERSON[1:]}, {view} view: ε {epsilon_text(found)}"
            for view, found in document.across_markets.epsilon.items()
        ]
    lines += [
        f"Market {name}, this run alone, {view} view: ε {epsilon_text(found.views[view].epsilon)}, "
        f"δ {delta_text(found.views[view].delta)}"
        for name, found in document.markets.items()
        for view in document.run.claimed_views
    ]
    return PrivacyLoss(
        privacy_unit=claimed_unit(document),
        privacy_unit_details=answer(document, NIST, "unit of privacy"),
        privacy_parameters=PrivacyParameters(epsilon=epsilon, delta=max(found.delta for found in figures)),
        privacy_parameters_details=_lines(lines),
    )


def _bases(document: Document, view: str) -> str:
    return "; ".join(dict.fromkeys(found.views[view].basis for found in document.markets.values()))


def _model(document: Document) -> DeploymentModel:
    runs = max(found.all_runs.known for found in document.markets.values())
    return DeploymentModel(
        model_name="Federated",
        model_name_details="Each market holds its own users' rows, and adds the noise itself before anything leaves "
        "it: the central model within a market, federated between them.",
        actors=_lines([answer(document, NIST, "trust model"), *document.assumptions]),
        release_type="One release",
        release_type_details=f"Runs on the same data that are known of, this one included: {runs}; the figures are "
        f"{scope(document)}. "
        f"{LEFT_OPEN}what is planned with the same data.",
        data_source_type="Static",
        data_source_type_details="The first line of each market's ledger commits to the rows before any is used.",
        access_type="Non-interactive",
        access_type_details="Every release is planned before the run, and nobody queries the rows.",
    )


def _mechanisms(document: Document, *, post_processing: bool) -> list[str]:
    """Stages by market as the ledgers name them, with what each alone spends."""
    lines = []
    for name, market in document.markets.items():
        for stage, mechanism in market.mechanisms.items():
            if mechanism.startswith("post-processing") == post_processing:
                noise = market.noise_multipliers.get(stage)
                amount = "" if noise is None else f", noise multiplier {noise:.6g}"
                alone = f", ε alone {epsilon_text(market.stages[stage])}" if stage in market.stages else ""
                lines.append(f"Market {name}, {stage}: {mechanism}{amount}{alone}")
    return lines


def _tuning(document: Document) -> str:
    runs = [found.all_runs for found in document.markets.values()]
    tuned = (
        "The CTR model's hyper-parameters were chosen on private validation rows, which no ledger line pays for."
        if document.run.tuned
        else "No stage of the run chose hyper-parameters on private rows."
    )
    if document.declarations.sole_run:
        return f"{tuned} Declared, not shown: this configuration was not chosen by other runs on the data."
    if any(found.runs is None for found in runs):
        return f"{tuned} Other runs on the data: not known, as no privacy account could be read."
    most = max(found.runs or 0 for found in runs)
    held = f"The figures are of all runs on the data that the privacy account holds: {most}, this one included."
    return f"{tuned} {held} {ceiling(document)}"


def _catalogues(document: Document) -> str:
    kinds = {name: found.catalogue.kind for name, found in document.markets.items()}
    return " ".join(catalogue_lines(kinds))


def _notes(document: Document) -> str:
    reasons, limit = document.verdict.reasons, document.declarations.max_epsilon
    return "\n\n".join(
        [
            f"Made by `report --registry` on {document.created} from run {document.run.id}, verified against its "
            f"ledgers: configuration {document.run.configuration_sha256}.",
            f"Open, for whoever publishes it:\n\n{_lines(_OF_PUBLISHER)}",
            *(
                [f"What speaks against relying on the guarantee, at a limit of ε {limit:g}:\n\n{_lines(reasons)}"]
                if reasons
                else []
            ),
            *([f"Not established:\n\n{_lines(document.verdict.open)}"] if document.verdict.open else []),
        ]
    )


def _lines(texts: list[str] | tuple[str, ...]) -> str:
    """A list in Markdown, which the registry shows; a single text as it is."""
    return texts[0] if len(texts) == 1 else "\n".join(f"- {' '.join(text.split())}" for text in dict.fromkeys(texts))
