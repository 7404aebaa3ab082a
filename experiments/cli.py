"""``fedmm``: run, verify, attack, audit, report, data.

Exit status: 0 on success, 1 on a finding (a failed verification, a refused release), 2 on bad usage or input.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from experiments.attack_commands import ATTACK_HELP, AUDIT_HELP, attack, audit
from experiments.commands.bench import bench_app
from experiments.commands.budget import BUDGET_HELP, budget
from experiments.commands.compare import COMPARE_HELP, compare
from experiments.commands.data import data_app
from experiments.commands.deploy import deploy_app
from experiments.commands.init import INIT_HELP, init
from experiments.commands.interruption import InterruptibleGroup
from experiments.commands.keys import keys_app
from experiments.commands.list_runs import RUNS_HELP, runs
from experiments.commands.options import FINDING, USAGE
from experiments.commands.report import REPORT_HELP, report
from experiments.commands.run import RUN_HELP, run
from experiments.commands.sweep import SWEEP_HELP, sweep
from experiments.commands.verify import VERIFY_HELP, verify
from experiments.console import one_line, say
from experiments.deploy.processes import DeploymentError
from fedmm_secure.federation.door import BudgetExceededError
from fedmm_secure.federation.in_process import MarketLostError
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.orders import OrderError, RunEndedError
from fedmm_secure.federation.server import CohortTooSmallError
from privacy.aggregation import AggregationError
from privacy.errors import InputError

STOPPED = (
    AggregationError,
    BudgetExceededError,
    CohortTooSmallError,
    DeploymentError,
    MarketLostError,
    MessageError,
    OrderError,
    RunEndedError,
)

app = typer.Typer(
    help="Privacy-hardened federated recommendation: train, verify, attack, report.",
    cls=InterruptibleGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(deploy_app, name="deploy")
app.add_typer(bench_app, name="bench")
app.command(help=INIT_HELP)(init)
app.command(help=RUN_HELP)(run)
app.command(help=VERIFY_HELP)(verify)
app.command(help=SWEEP_HELP)(sweep)
app.command(help=COMPARE_HELP)(compare)
app.command("runs", help=RUNS_HELP)(runs)
app.command(help=ATTACK_HELP)(attack)
app.command(help=AUDIT_HELP)(audit)
app.command(help=BUDGET_HELP)(budget)
app.command(help=REPORT_HELP)(report)


def main() -> None:
    """Entry point of the ``fedmm`` command."""
    os.umask(0o077)  # what a run leaves is private, whatever the shell says
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|opacus)\.")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        app()
    except InputError as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(USAGE)
    except STOPPED as error:
        say(one_line(f"fedmm: {error}"), error=True)
        sys.exit(FINDING)
