"""``fedmm keys coins`` and ``fedmm keys run-key``: what an auditor and a market exchange for a run that is replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.signing import KeysOption, PassphraseOption, read_passphrase
from experiments.presentation.console import one_line, say
from privacy.aggregation.keys import KeyDirectory

coins_app = typer.Typer()


@coins_app.command(
    "coins",
    short_help="Toss coins for a run that you replay.",
    help="An auditor's part of a run with audit.replay: a coin for each ledger that has its first line alone, of which "
    "the run's noise is made; and how often the same card, or the same rows, asked for coins before.\n\n"
    "Example: fedmm keys coins runs/x --keys keys/auditor --out coins.json; then: fedmm run --resume --out runs/x "
    "--coins coins.json",
)
def coins(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or one with its ledger/ alone.")],
    keys: KeysOption,
    out: Annotated[Path, typer.Option(help="File for the coins, to be handed back.")] = Path("coins.json"),
    passphrase_file: PassphraseOption = None,
) -> None:
    """``fedmm keys coins``."""
    from fedmm_secure.federation.coin_book import enter_tosses  # ledgers, and with them the accountants
    from fedmm_secure.federation.tosses import asked_tosses, write_answers

    identity = KeyDirectory(keys).identity(read_passphrase(passphrase_file))
    tosses = asked_tosses(run, identity)
    before = enter_tosses(keys, tosses, identity)
    write_answers(out, identity, tosses)
    for toss in tosses:
        asker = "" if toss.card is None else f", asked for by {toss.card.name} {toss.card.fingerprint}"
        say(one_line(f"{toss.market:<12} run {toss.run[:12]}, first line {toss.opening[:16]}{asker}"))
        for count, whose in ((before[toss.market].card, "of this card"), (before[toss.market].rows, "of these rows")):
            if count:
                say(one_line(f"  coins were tossed for {count} other first lines {whose}: ask why"))
        if before[toss.market].together:
            say(
                f"  this card asks for {before[toss.market].together} more markets of this run: see that they are other"
            )
            say("  people's rows, for a market under several names chooses among as many coins")
    say(f"coins        {out}")


@coins_app.command(
    "run-key",
    short_help="Let an auditor compare a run's rows.",
    help="Where a run with audit.replay was made: a key with which its auditor, and nobody else, sees that rows are "
    "those that the run was opened on. It follows from the privacy account's key, and opens nothing else of it; with "
    "what other runs of the account sealed for the same auditor, guesses at their rows can be tested too.\n\n"
    "Example: fedmm keys run-key runs/x --out x.key; the auditor: fedmm verify runs/x --replay keys/auditor --data "
    "markets --run-key x.key",
)
def run_key(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, where it was made.")],
    out: Annotated[Path, typer.Option(help="File for the key, to be handed to the auditor alone.")] = Path("run.key"),
) -> None:
    """``fedmm keys run-key``."""
    from fedmm_secure.federation.run_keys import make_run_key, write_run_key  # accounts, and with them the accountants

    found = make_run_key(run)
    write_run_key(out, found)
    say(one_line(f"run key      {out}: of run {found.run[:12]}, for {found.reader} alone"))
