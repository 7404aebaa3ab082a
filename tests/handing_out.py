"""Every file of a run directory is in one class: who may have it, and which view's ε covers what it says of users."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.reports.run import page_findings, write_report
from experiments.verification import examine_run

PRIVATE, RESULTS = "private", "results"
NAME = r"[\w-]+"


@dataclass(frozen=True)
class Class:
    """Files that are alike: what they are, by pattern and in words, and what covers them."""

    name: str
    pattern: str
    paths: str
    what: str
    covered: str


CLASSES = (
    Class(
        "public",
        rf"config\.yaml|environment\.json|transcript/federation\.json|transcript/index\.jsonl|ledger/{NAME}\.jsonl"
        rf"|transcript/.*/\d+(\.\d+)?-(start|hello|statement)-{NAME}\.bin",
        "`config.yaml`, `environment.json`, `ledger/`, bundle and index, `start`, `hello`, `statement`",
        "configuration, sizes, plans, signatures; HMACs of what is private",
        "nothing of users, but what is declared public",
    ),
    Class(
        "figures",
        r"metrics\.json|report\.html",
        "`metrics.json`, `report.html`",
        "test figures of private rows, codebooks' errors and use; results of attacks. The page is drawn from files of "
        "this table that are handed out; without a budget it shows losses and users' codes too, and is its owner's",
        "no ε: exact, unless `privacy.shares.evaluation` pays for them (then `release`)",
    ),
    Class(
        "messages",
        rf"transcript/.*/\d+(\.\d+)?-(update|aggregate)-{NAME}\.bin",
        "`update`, `aggregate` in `transcript/`",
        "what markets sent, encrypted",
        "`server`; for who is in league with markets, `collusion`",
    ),
    Class(
        "sums",
        r"transcript/.*/\d+(\.\d+)?-sum-server\.bin",
        "`sum` in `transcript/`",
        "decrypted sums of the rounds",
        "`market`",
    ),
    Class(
        "released",
        rf"transcript/(?!user-codes/)(.*/)?\d+(\.\d+)?-(publication|meter)-{NAME}\.bin"
        rf"|transcript/user-codes/\d+/\d+-meter-{NAME}\.bin",
        "`publication`, `meter` in `transcript/`",
        "counts, factors, RQ-VAE, item codes, CTR model; noise of spare coordinates",
        "`release` (under `protect: federation` there are meters alone)",
    ),
    Class(
        "models",
        rf"models/{NAME}/(quantizer|ctr)-\d+\.pt",
        "`models/` under `protect: release`",
        "the published models once more",
        "`release`",
    ),
    Class(
        PRIVATE,
        rf"state/.*|private/.*|codes/{NAME}\.parquet|predictions/{NAME}\.parquet|log\.jsonl|tensorboard/.*"
        rf"|models/{NAME}/(quantizer|refined|ctr)-\d+\.(pt|npz)|failure\.json|cell\.json"
        r"|attacks/(scores|shadows)/.*",
        "`private/`, `state/`, `codes/`, `predictions/`, `log.jsonl`, `tensorboard/`, all other `models/`, "
        "`cell.json`, `failure.json`, `attacks/scores/`, `attacks/shadows/`",
        "a market's own updates, user codes (randomised ones too), keys, scores, choices",
        "**nothing: keep it**. Randomised user codes: `profile`, for whom you give them to",
    ),
    Class(
        RESULTS,
        r"attacks/[\w.-]+|audit/[\w-]+/audit\.json|compliance\.(json|html)|registry\.yaml|bom\.cdx\.json",
        "other files of `attacks/`, `audit/*/audit.json`, `compliance.*`, `registry.yaml`, `bom.cdx.json`",
        "how well attacks on private rows did",
        "no ε: exact",
    ),
)


def class_of(path: str, *, released: bool) -> str | None:
    """The class of a file by its path in the run directory; None where it is in no class."""
    for found in CLASSES:
        if re.fullmatch(found.pattern, path) and (found.name != "models" or released):
            return found.name
    return None


def files(run: Path) -> Iterator[str]:
    """Every file of a run directory."""
    return (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def hand_out(run: Path, to: Path, *, released: bool) -> Path:
    """A copy of what may be handed out."""
    for name in files(run):
        if class_of(name, released=released) != PRIVATE:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run / name, to / name)
    return to


def page_travels(run: Path, folder: Path, *, released: bool) -> tuple[list[str], list[str]]:
    """What verification says of the page of a run of which only what may be handed out is there."""
    whole = Path(shutil.copytree(run, folder / "whole" / run.name))
    write_report(whole)
    handed = hand_out(whole, folder / "handed" / run.name, released=released)
    found, said = page_findings(handed, examine_run(handed))
    return [finding.what for finding in found], said


def table() -> str:
    """The table of docs/verification.md."""
    lines = ["| files | what they say of users | the ε that covers it |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {found.paths} | {found.what} | {found.covered} |" for found in CLASSES)])
