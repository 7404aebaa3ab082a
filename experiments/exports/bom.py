"""A compliance document as a CycloneDX 1.6 bill of materials: published models with their cards, and the markets' data.

Nothing stands in it that the run does not show. cyclonedx-python-lib has no model cards (as of 11.12), so the document
is written here; the library's schema checks it in the tests. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from experiments.compliance.document import Document, MarketStated
from experiments.compliance.judgement import ClaimedFigure, claimed, claimed_text
from experiments.compliance.questions import NIST, answer
from experiments.compliance.signing import signed_bytes
from experiments.presentation.text import PERSON
from fedmm_secure.guarantee.stages import CTR, QUANTIZER
from privacy.accounting.text import delta_text, epsilon_text
from privacy.files import write_atomic
from privacy.json_text import json_text

BOM_FILE = "bom.cdx.json"
_MODEL = re.compile(r"models/[^/]+/([a-z]+)-(\d+)\.pt")
_CODE = ("commit", "code")  # in the environment, beside versions
_PREFIX = "fedmm-secure"  # of the names of properties
_KEYED = "the rows, by a hash under a key of the market's account: whoever has no key can compare it with nothing"
_CARDS: Mapping[str, Mapping[str, Any]] = {
    QUANTIZER: {
        "approach": {"type": "unsupervised"},
        "task": "item and user embeddings to pairs of codes",
        "architectureFamily": "autoencoder",
        "modelArchitecture": "RQ-VAE with a federated and a local codebook",
    },
    CTR: {
        "approach": {"type": "supervised"},
        "task": "click-through rate: how likely a user is to take an item",
        "architectureFamily": "neural network",
    },
}


def bill_of_materials(document: Document) -> dict[str, Any]:
    """The document as CycloneDX JSON; the same for the same document."""
    models = [(name, path) for name, market in document.markets.items() for path in market.shown if _kind(path)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, signed_bytes(document).hex())}",
        "version": 1,
        "metadata": {
            "timestamp": document.created,
            "tools": {"components": list(_tools(document))},
            "component": {
                "type": "application",
                "bom-ref": _run(document),
                "name": document.run.name,
                "version": document.run.id,
                "description": "A federated run, its published models and the data that they were computed from.",
            },
            "properties": list(_standing(document)),
        },
        "components": [
            *(_data(document, name, market) for name, market in document.markets.items()),
            *(_model(document, name, path) for name, path in models),
        ],
        "dependencies": [
            {"ref": _run(document), "dependsOn": [path for _, path in models]},
            *({"ref": path, "dependsOn": _sources(document, name, path)} for name, path in models),
        ],
    }


def write_bom(directory: Path, document: Document) -> Path:
    """Write ``bom.cdx.json``; returns its path."""
    text = json_text(bill_of_materials(document), indent=2, ensure_ascii=False) + "\n"
    write_atomic(directory / BOM_FILE, text.encode())
    return directory / BOM_FILE


def _kind(path: str) -> str | None:
    found = _MODEL.fullmatch(path)
    return found[1] if found and found[1] in _CARDS else None


def _run(document: Document) -> str:
    return f"run/{document.run.id}"


def _rows(market: str) -> str:
    return f"data/{market}"


def _sources(document: Document, market: str, path: str) -> list[str]:
    """What a model is computed from: a quantiser from all markets, a CTR model from its own market and its codes."""
    if _kind(path) == QUANTIZER:
        return [_rows(name) for name in document.markets]
    quantizer = path.replace(f"/{CTR}-", f"/{QUANTIZER}-")
    return [_rows(market), *([quantizer] if quantizer in document.markets[market].shown else [])]


def _model(document: Document, market: str, path: str) -> dict[str, Any]:
    found, kind = document.markets[market], str(_kind(path))
    mechanism = found.mechanisms.get(kind)
    data = [{"ref": ref} for ref in _sources(document, market, path) if ref.startswith("data/")]
    return {
        "type": "machine-learning-model",
        "bom-ref": path,
        "name": path,
        "version": document.run.id,
        "description": f"{'Quantiser' if kind == QUANTIZER else 'Click-through-rate model'} of market {market}.",
        "hashes": [{"alg": "SHA-256", "content": found.shown[path]}],
        "modelCard": {
            "modelParameters": {**_CARDS[kind], "datasets": data},
            "considerations": {
                "technicalLimitations": [answer(document, NIST, "utility and bias")],
                "ethicalConsiderations": [
                    {"name": _risk(document, figure), "mitigationStrategy": found.views[figure.view].basis}
                    for figure in claimed(document, market)
                ]
                + [{"name": f"not guaranteed: {text}"} for text in document.not_guaranteed],
            },
        },
        "properties": [
            *([_property("mechanism", mechanism)] if mechanism else []),
            *_guarantees(document, market),
        ],
    }


def _risk(document: Document, figure: ClaimedFigure) -> str:
    return (
        f"what the {figure.view} view learns of {figure.unit}: "
        f"ε {claimed_text(document, figure)}, δ {delta_text(figure.delta)}"
    )


def _data(document: Document, market: str, found: MarketStated) -> dict[str, Any]:
    """A market's rows, by what is public of them: sizes, catalogue, and a commitment that shows nothing."""
    rows = "synthetic rows, nobody's" if document.run.synthetic else "users' interactions with items; they stay inside"
    return {
        "type": "data",
        "bom-ref": _rows(market),
        "name": f"rows of market {market}",
        "version": document.run.id,
        "data": [
            {
                "type": "dataset",
                "name": market,
                "classification": "synthetic" if document.run.synthetic else "private",
                "description": f"{rows}: {found.users} users, {found.items} items",
                **({} if document.run.synthetic else {"sensitiveData": ["which user took which item, and when"]}),
            }
        ],
        "properties": [
            _property("users", str(found.users)),
            _property("items", str(found.items)),
            _property("catalogue:kind", found.catalogue.kind),
            _property("catalogue:sha256", found.catalogue.sha256),
            *_commitment(document, found),
            _property("ledger:head", found.ledger.head),
            *_guarantees(document, market),
        ],
    }


def _commitment(document: Document, found: MarketStated) -> Iterator[dict[str, str]]:
    """No plain hash of private rows: whoever has a guess at them would compute it again and compare."""
    if found.ledger.data is not None and not document.run.synthetic:
        yield _property("keyed-commitment", found.ledger.data)
        yield _property("keyed-commitment:meaning", _KEYED)


def _guarantees(document: Document, market: str) -> Iterator[dict[str, str]]:
    """ε and δ by view and unit, over all runs on the data unless others were set aside."""
    for figure in claimed(document, market):
        name = f"person:{figure.view}" if figure.unit == PERSON else figure.view
        value = claimed_text(document, figure) if figure.epsilon is None else repr(figure.epsilon)
        yield _property(f"epsilon:{name}", "unbounded" if value == epsilon_text(None) else value)
        yield _property(f"delta:{name}", repr(figure.delta))
        yield _property(f"unit:{name}", figure.unit)


def _standing(document: Document) -> Iterator[dict[str, str]]:
    """Whether the run verified, and what speaks against its guarantee."""
    yield _property("verified", str(document.verification.verified).lower())
    yield _property("protect", document.run.protect)
    yield _property("aggregation", document.run.aggregation)
    yield _property("configuration:sha256", document.run.configuration_sha256)
    for name in _CODE:
        if name in document.environment:
            yield _property(name, document.environment[name])
    yield _property("limit", repr(document.declarations.max_epsilon))
    for reason in document.verdict.reasons:
        yield _property("not-compliant", reason)


def _tools(document: Document) -> Iterator[dict[str, Any]]:
    """The software that ran, by the names and versions that the run recorded."""
    for name, version in document.environment.items():
        if name not in _CODE:
            yield {"type": "library", "name": name, "version": version}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"{_PREFIX}:{name}", "value": value}
