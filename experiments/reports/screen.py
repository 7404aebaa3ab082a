"""What a run ends with on the terminal: accuracy with and without DP, ε by view, what attacks got, verified or not."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from experiments.assessment.findings import Found
from experiments.assessment.record import Verdict, verdict_of, verdict_text
from experiments.presentation.console import PlainConsole, one_line, say
from experiments.presentation.tables import Facts, Table
from experiments.presentation.text import WHO, difference_text, estimate_text, figure_text, interval_text
from experiments.reports.accuracy import Comparison, best_of, comparable_baselines
from experiments.reports.privacy import CIPHERTEXTS_ONLY, view_lines
from experiments.reports.standing import open_noise, signature_lines
from experiments.verification.run import Examination
from fedmm_secure.config import Config
from fedmm_secure.guarantee.stages import SEVERAL_MARKETS, has_sums
from fedmm_secure.storage.layout import PAGE_FILE
from privacy.accounting.text import delta_text, epsilon_text

WIDTH = 80
_SHOWN = {"noisy-popularity": "noisy counts", "noisy-recent-popularity": "noisy recent counts"}


_NO_DP = "set privacy.epsilon, and fedmm budget says before what that buys"


@dataclass(frozen=True)
class Finished:
    """A run that is over, and what was done with it since.

    Attributes:
        directory: of the run.
        config: its configuration.
        metrics: its ``metrics.json``.
        examined: its verification.
        without_dp: metrics of a run of the same data without DP; None where there is none.
        attacks: results by attack; empty where it was not attacked.
        remarks: what else a reader should know, a line each.
    """

    directory: Path
    config: Config
    metrics: Mapping[str, Any]
    examined: Examination
    without_dp: Mapping[str, Any] | None = None
    attacks: Found = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def budget(self) -> float | None:
        """ε of each market; None without one."""
        return self.config.privacy.epsilon

    @property
    def statements(self) -> Mapping[str, Any]:
        """Privacy statements by market."""
        found: Mapping[str, Any] = self.metrics["privacy"]["markets"]
        return found

    def compared(self) -> Comparison | None:
        """The model beside the best baseline with the same protection and budget; None where there is none."""
        return best_of(self.metrics, comparable_baselines(self.config, list(self.metrics["macro"]["baselines"])))


def show(run: Finished, commands: Sequence[Sequence[str]]) -> None:
    """Print everything that the terminal shows of a finished run, in 80 columns at most.

    Args:
        run: what there is of it.
        commands: what to do next, as words of a shell.
    """
    console = PlainConsole()
    if console.width > WIDTH or not console.is_terminal:
        console = PlainConsole(width=WIDTH)
    console.print(screen(run), highlight=False)
    # paths and commands are never broken, so that they can be copied
    say(f"report    {here(run.directory / PAGE_FILE)}")
    for number, command in enumerate(commands):
        say(one_line(f"{'' if number else 'next':<10}{shlex.join(command)}"))


def screen(run: Finished) -> RenderableType:
    """Accuracy, ε by view, what attacks got, verified or not."""
    facts = Facts()
    for head, texts in (*_privacy(run), *_attacks(run), _verified(run)):
        for number, text in enumerate(texts):
            facts.add_row("" if number else head, text)
    for remark in run.remarks:
        facts.add_row("note", remark)
    return Group(_accuracy(run), "", facts)


def _accuracy(run: Finished) -> Table:
    metrics, compared = run.metrics, run.compared()
    own = f"ε = {run.budget:g}" if run.config.private_ctr else "fedmm"
    head = ["test AUC"] if run.without_dp is None else ["test AUC", "without DP"]
    if compared is not None:
        name = _SHOWN.get(compared.baseline, compared.baseline)
        head = [*head, own, name, f"{own} minus {name}, 95 %"]
    else:
        head.append(own)
    table = Table(*head)
    for market, values in metrics["markets"].items():
        row = [market] if run.without_dp is None else [market, _auc(run.without_dp["markets"][market])]
        row.append(_auc(values))
        if compared is not None:
            other = values["baselines"][compared.baseline]
            row += [figure_text(other["auc"]), difference_text(other["auc_gain_over_it"])]
        table.add_row(*row)
    row = ["mean"] if run.without_dp is None else ["mean", _auc(run.without_dp["macro"])]
    row.append(_auc(metrics["macro"]))
    if compared is not None:
        row += [figure_text(compared.auc), difference_text(compared.gain)]
    table.add_row(*row)
    return table


def _auc(found: Mapping[str, Any]) -> str:
    """With its 95 % interval where noise is in it."""
    return interval_text(found["auc_interval"]) if "auc_interval" in found else figure_text(found["auc"])


def _privacy(run: Finished) -> list[tuple[str, list[str]]]:
    if run.budget is None:
        who = "the server, other markets" if run.config.aggregation.traits.server_reads_updates else "other markets"
        return [("no DP", [f"nothing bounds what {who}, and whoever gets scores or models, learn of a user: {_NO_DP}"])]
    delta = max(found["market"]["delta"] for found in run.statements.values())
    views = view_lines(run.config, run.metrics["privacy"])
    lines: dict[str, list[str]] = {}
    for view in views:
        who = f"{view.who} ({view.note}: ciphertexts, and no key)" if view.note == CIPHERTEXTS_ONLY else view.who
        lines.setdefault("no bound" if view.epsilon is None else epsilon_text(view.epsilon), []).append(who)
    found = [(f"ε at δ {delta_text(delta)}", [f"{epsilon}: {'; '.join(who)}" for epsilon, who in lines.items()])]
    persons: dict[str, list[str]] = {}
    for view in views:
        if view.person:
            persons.setdefault(view.person, []).append(view.who)
    if persons:
        texts = [f"{epsilon}: {'; '.join(who)}" for epsilon, who in persons.items()]
        found.append(("a person", [*texts, "with rows in all markets; above: a user of one"]))
    earlier = [view for view in views if view.earlier]
    if earlier:
        texts = [f"{epsilon_text(view.together)}: {view.who}" for view in earlier]
        found.append((f"with {max(view.earlier for view in earlier)} earlier", texts))
    if has_sums(run.config):
        found.append(("unit", [SEVERAL_MARKETS.removeprefix("unit: ")]))
    if run.config.privacy.noise_seed is not None:
        found.append(
            ("a test", ["noise follows from privacy.noise_seed: to whoever knows it nothing above is bounded"])
        )
    if run.config.audit.replay is not None:
        found.append(("open to", [open_noise(run.config.audit.replay.card)]))
    return [*found, *_conditional(run)]


def _conditional(run: Finished) -> list[tuple[str, list[str]]]:
    """What DP-SGD alone gives where its inputs have no guarantee."""
    found = {}
    for market, views in run.statements.items():
        alone = views["stages"]["quantizer"]
        if alone is not None and alone["epsilon"] is not None and views["market"]["epsilon"] is None:
            found[market] = epsilon_text(alone["epsilon"])
    if not found:
        return []
    figures = ", ".join(f"{market} {epsilon}" for market, epsilon in found.items())
    return [("DP-SGD alone", [f"conditional on fixed embeddings, not a user-level guarantee: {figures}"])]


def _attacks(run: Finished) -> list[tuple[str, list[str]]]:
    """The strongest membership inference of what a guarantee bounds and of what none does; first what is beyond one."""
    membership = run.attacks.get("membership", [])
    kinds = [[found for found in membership if bool(found["bound"]) is bounded] for bounded in (True, False)]
    shown = [
        max(kind, key=lambda found: (verdict_of(found) is Verdict.BEYOND, found["auc"]["value"]))
        for kind in kinds
        if kind
    ]
    texts = []
    for found in shown:
        text = f"AUC {estimate_text(found['auc'])}: {WHO.get(found['view'], found['view'])}"
        if found["bound"] is None:
            text += "; nothing bounds it"
        else:
            text += f"; {verdict_text(found)}"
        texts.append(text)
    if not texts:
        return []
    one = shown[0]
    about = f"which {one['unit']}s of {one['market']} were trained on? {one['targets']} shadow runs, .5 is guessing"
    return [("attack", [about, *texts])]


def _verified(run: Finished) -> tuple[str, list[str]]:
    findings = run.examined.findings
    if findings:
        return "NOT verified", [f"{len(findings)} finding{'s' if len(findings) > 1 else ''}: {findings[0].what}"]
    signed = [line.brief for line in signature_lines(list(run.metrics["markets"]), run.examined, [], ())]
    return "verified", ["every charge, message and model against the plan; ε by two accountants", *signed]


# -- what to do next ---------------------------------------------------------------------------------------------------


def next_commands(run: Finished, signed: Path | None) -> list[list[str]]:
    """Two commands that work where the user stands, with the run's own paths."""
    directory = here(run.directory)
    if run.config.data.synthetic is not None:
        files = [f"markets/m{number}.csv" for number in range(3)]
        return [[program(), "data", "synthesize", "markets"], [program(), "init", *files]]
    data = [] if run.config.data.root is None else ["--data", here(run.config.data.root)]
    attack = [program(), "attack", directory, *data]
    if run.budget is None or signed is None:
        return [attack, [program(), "verify", directory]]
    keys = here(signed)
    ceiling = ["--sign", keys, "--max-epsilon", f"{run.budget:g}"]
    return [[*attack, "--sign", keys], [program(), "report", directory, "--compliance", *ceiling]]


def program() -> str:
    """How this program was called, where the name alone would not find it."""
    called, found = Path(sys.argv[0]), shutil.which("fedmm")
    if called.name != "fedmm" or not called.is_file():
        return "fedmm"
    if found is not None and Path(found).resolve() == called.resolve():
        return "fedmm"
    path = here(called)
    return path if os.sep in path else os.path.join(os.curdir, path)


def here(path: Path) -> str:
    """A path as seen from the current folder, where it is below it."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith(os.pardir) else relative
