"""``fedmm bench``: speed and size, side by side in one run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from experiments.commands.options import JsonFlag, SetOption, WorkersOption
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import difference_text, estimate_text, interval_text
from experiments.runs.configuration import SYNTHETIC, resolve
from fedmm_secure.errors import ConfigError

bench_app = typer.Typer(help="Measure speed and size side by side.", no_args_is_help=True, rich_markup_mode=None)


@bench_app.command(
    "aggregation",
    short_help="Cost of encoding, encryption and sums.",
    help="Encode, encrypt, add, decrypt: time and bytes against a plain TenSEAL vector with NVFlare's parameters.\n\n"
    "Example: fedmm bench aggregation xmarket --repeat 30",
)
def aggregation(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    markets: Annotated[int | None, typer.Option(min=2, help="Default: the configuration's.")] = None,
    repeat: Annotated[int, typer.Option(min=3, help="Repetitions, all ways in each.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench aggregation``."""
    settings = resolve(config, overrides or [])
    from experiments.benchmarks.aggregation import codebook_length, measure_aggregation  # the encryption

    cohort = markets or settings.data.n_markets
    length, bits = codebook_length(settings), settings.aggregation.bits
    with TaskProgress("measuring", quiet=as_json):
        found = measure_aggregation(settings.aggregation.clip, bits, length, cohort, repeat)
    if as_json:
        say_json([asdict(cost) for cost in found])
        return
    table = Table(
        *(
            "way",
            "protect ms",
            "add ms",
            "reveal ms",
            "sum ms",
            "faster",
            "all machines",
            "B up",
            "B down",
            "smaller",
            "error",
        )
    )
    for cost in found:
        times = (estimate_text(asdict(one)) for one in (cost.protect, cost.aggregate, cost.reveal, cost.total))
        faster = (estimate_text(asdict(one)) for one in (cost.speed_up, cost.speed_up_of_all))
        sizes = (f"{cost.up:.2f}", f"{cost.down:.2f}", f"{cost.smaller:.1f}", f"{cost.largest_error:.2g}")
        table.add_row(cost.way, *times, *faster, *sizes)
    wide_console().print(f"{length} values of {bits} bits, {cohort} markets, {repeat} repetitions", table)
    say("sum: end to end, markets at the same time; all machines: their time added up")
    say("B: bytes a value; faster, smaller: against the first way, in the same repetition; mean and 95 % interval")


@bench_app.command(
    "noise",
    short_help="Cost of noise and of a DP-SGD step.",
    help="Draws a second on one core, and what a DP-SGD step of the RQ-VAE costs, beside PyTorch's generator and "
    "Opacus.\n\nExample: fedmm bench noise --batch 1024",
)
def noise(
    draws: Annotated[int, typer.Option(min=1000, help="Draws of a repetition.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=8, help="Expected batch of a step.")] = 1024,
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, all ways in each.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench noise``."""
    from experiments.benchmarks.noise import measure_noise  # what trains

    with TaskProgress("measuring", quiet=as_json):
        found = measure_noise(draws, batch, repeat)
    if as_json:
        say_json([asdict(cost) for cost in found])
        return
    table = Table("what", "way", "seconds", "rate", "slower")
    for cost in found:
        table.add_row(
            cost.what, cost.way, *(estimate_text(asdict(one)) for one in (cost.seconds, cost.rate, cost.slower))
        )
    wide_console().print(f"{draws} draws; steps on batches of {batch}; one core, {repeat} repetitions", table)
    say("rate: million draws, or steps, a second; slower: against the first way, in the same repetition")


@bench_app.command(
    "shadows",
    short_help="Shadow pipelines a minute.",
    help="Shadow pipelines a minute: side by side over processes, against a loop of single fits.\n\n"
    "Example: fedmm bench shadows xmarket --market mx --target federated-codes",
)
def shadows(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    market: Annotated[str | None, typer.Option(help="Market; default: the first.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Attacked model; default: fedmm.")] = None,
    models: Annotated[int, typer.Option(min=4, help="Pipelines trained side by side.")] = 32,
    repetitions: Annotated[int, typer.Option(min=2, help="Repetitions, both ways in each.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench shadows``."""
    settings = resolve(config, overrides or [])
    if settings.privacy.epsilon is not None:
        raise ConfigError(f"{config}: pipelines with privacy.epsilon are trained one by one; leave it out")
    from experiments.benchmarks.shadows import bench_shadows  # what trains

    name = market or next(iter(sorted(settings.data.markets)), "m0")
    with TaskProgress("measuring", quiet=as_json):
        found = [bench_shadows(settings, name, one, models, repetitions) for one in target or ["fedmm"]]
    if as_json:
        say_json([asdict(cost) for cost in found])
        return
    table = Table("target", "looped, a minute", "together, a minute", "speed-up", "AUC looped", "AUC together", "gap")
    for cost in found:
        fields = (cost.looped, cost.together, cost.speed_up, cost.auc_looped, cost.auc_together, cost.difference)
        table.add_row(cost.target, *(estimate_text(asdict(field)) for field in fields))
    wide_console().print(f"shadow pipelines of market {name}, {settings.workers} workers", table)


@bench_app.command(
    "join",
    short_help="What joining is worth to a market.",
    help="What the federation is worth to a market that joins: test AUC by the share of its users that it knows, "
    "alone, with a head that was fitted to the other markets alone, and with both; each market left out in turn.\n\n"
    "Example: fedmm bench join xmarket --set head.trees=80 --draws 5 --workers 16 --json",
)
def join(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    share: Annotated[
        list[float] | None,
        typer.Option(min=0.001, max=1.0, help="Of its users; repeat. Default: .01 to 1, seven of them."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="How often the users of a share are drawn.")] = 5,
    workers: WorkersOption = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench join``."""
    settings = resolve(config, overrides or [])
    if settings.head.trees == 0:
        raise ConfigError("head.trees is 0: no head is fitted; add --set head.trees=80")
    from experiments.benchmarks.joining import SHARES, measure_joining, worth  # what trains

    with TaskProgress("measuring", quiet=as_json):
        found = measure_joining(settings, share or SHARES, draws, workers or settings.workers)
    needed = worth(found)
    if as_json:
        say_json({"bench": "join", "rows": [asdict(row) for row in found], "worth": [asdict(row) for row in needed]})
        return
    table = Table("market", "users", "popularity", "alone", "federation", "both", "federation - alone")
    for row in found:
        figures = (interval_text(asdict(one)) for one in (row.popularity, row.alone, row.federation, row.both))
        table.add_row(row.market, f"{row.users} ({row.share:.0%})", *figures, difference_text(asdict(row.gain)))
    wide_console().print(
        "test AUC; mean and 95 % interval over draws; differences paired, a bootstrap over users", table
    )
    for one in needed:
        ahead = "with all of them" if one.crossing is None else f"up to {one.crossing:.0f} of its own"
        ahead = "nowhere" if one.crossing == 0 else ahead
        say(f"{one.market:<6} {one.users} users; the federation's head is ahead {ahead}")
