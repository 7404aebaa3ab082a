"""Every path that a run directory may hold. What is not listed here is no part of a run, whatever it is called.

``state/``, the log and trackers' files are the owner's memory: they are evidence of nothing, and never opened.
``private/`` is what a market keeps to itself: committed to, and compared where it is shown.
``attacks/`` and ``audit/`` hold what attackers and auditors wrote; compliance reports say what it is worth. Whoever
verifies is told by name what of all this is there: it may say anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from experiments.verification.evidence import Evidence
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED, MODELS
from fedmm_secure.federation.closing import SHARED_FILES
from fedmm_secure.federation.private_record import private_name
from fedmm_secure.federation.transcript import INDEX
from fedmm_secure.storage.layout import TRANSCRIPT, QuantizerKind, RunDirectory
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.bundle import BUNDLE_FILE

SUFFIXES = sorted({traits.suffix for traits in MODELS.values()})
_MEMORY = ("state", "tensorboard", "attacks/shadows")
PAGE = "report.html"  # drawn again and compared, by ``fedmm verify``
_REPORTS = ("compliance.json", "compliance.html", "compliance.intoto.json", "registry.yaml", "bom.cdx.json")
_BESIDE = (PAGE, *_REPORTS, "log.jsonl", "cell.json", "failure.json")
_RESULTS = re.compile(
    r"attacks/(attacks\.json|results\.parquet|[\w-]{1,150}\.(svg|png|csv)"  # a figure is called as its attack, or more
    r"|scores/[\w-]{1,150}\.parquet)"
    r"|audit/[\w-]{1,100}/audit\.json"
)
_RESULT_FOLDERS = re.compile(r"attacks(/scores)?|audit(/[\w-]{1,100})?")
_MOST_REPORTED = 20


def layout_findings(evidence: Evidence) -> list[Finding]:
    """Paths that no run has, hidden ones and empty folders too."""
    files = set(_files(evidence))
    folders = {str(parent) for file in files for parent in Path(file).parents}
    found = [
        path
        for path, is_folder in _walk(evidence.directory)
        if not ((path in folders or _RESULT_FOLDERS.fullmatch(path)) if is_folder else _is_file(path, files))
    ]
    findings = [
        Finding(str(evidence.directory / path)[:1000], "is no part of a run directory")
        for path in found[:_MOST_REPORTED]
    ]
    if len(found) > len(findings):
        more = len(found) - len(findings)
        findings.append(
            Finding(str(evidence.directory), f"{more} more files and folders are no part of a run directory")
        )
    return findings


def unread(directory: Path) -> list[str]:
    """What is there and no check reads: the owner's memory, what others wrote, pages of other commands."""
    there = [name for name in _BESIDE if (directory / name).is_file() and name != PAGE]
    folders = [f"{name}/" for name in (*_MEMORY, "attacks", "audit") if "/" not in name and (directory / name).is_dir()]
    return sorted([*there, *folders])


def _is_file(path: str, files: set[str]) -> bool:
    return path in files or _RESULTS.fullmatch(path) is not None


def _files(evidence: Evidence) -> Iterator[str]:
    yield from (*SHARED_FILES, *_BESIDE, f"{TRANSCRIPT}/{INDEX}", f"{TRANSCRIPT}/{BUNDLE_FILE}")
    yield from (f"{TRANSCRIPT}/{record.file}" for record in evidence.messages.index)
    for market in evidence.bundle.markets:
        own = evidence.own.get(market)
        yield from (private_name(market, record.file) for record in (() if own is None else own.index))
        yield from own_names(evidence.config, market)
        yield from (file.as_posix() for file in (RunDirectory().private_key(market), RunDirectory().ledger(market)))


def own_names(config: Config, market: str) -> Iterator[str]:
    """Paths of files of a market that may be there beside its ledger and its record of what it sent."""
    names = RunDirectory()
    yield private_name(market, INDEX)
    files = [names.codes(market), names.predictions(market)]
    files += [names.tuned(market, recipe) for recipe in (CONFIGURED, *config.ctr.baselines)]
    files += [names.head(market)] if config.head.trees else []
    for seed in config.seed:
        files += [names.quantizer(market, seed, kind=kind) for kind in get_args(QuantizerKind)]
        files += [names.ctr(market, seed, suffix) for suffix in SUFFIXES]
    yield from (file.as_posix() for file in files)


def _walk(directory: Path) -> Iterator[tuple[str, bool]]:
    """Every path in a directory but those of the owner's memory, and whether it is a folder; links are not followed."""
    for folder, folders, files in os.walk(directory):
        at = Path(folder).relative_to(directory)
        names = {name: (at / name).as_posix() for name in folders}
        folders[:] = sorted(name for name, path in names.items() if path not in _MEMORY)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from ((names[name], name not in links) for name in folders)
        yield from (((at / name).as_posix(), False) for name in sorted(files))
