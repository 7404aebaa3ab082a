"""``fedmm bench``: speed and size, side by side in one run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.options import JsonFlag, SetOption, WorkersOption
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say, say_json, wide_console
from experiments.presentation.tables import Table
from experiments.presentation.text import difference_text, estimate_text, figure_text, interval_text
from experiments.runs.configuration import QUICKSTART, SYNTHETIC, resolve
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.storage import run_directory
from privacy.accounting.text import epsilon_text

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
            "B least",
            "smaller",
            "error",
        )
    )
    for cost in found:
        times = (estimate_text(asdict(one)) for one in (cost.protect, cost.aggregate, cost.reveal, cost.total))
        faster = (estimate_text(asdict(one)) for one in (cost.speed_up, cost.speed_up_of_all))
        sizes = (
            *(f"{size:.2f}" for size in (cost.up, cost.down, cost.least)),
            *(f"{cost.smaller:.1f}", f"{cost.largest_error:.2g}"),
        )
        table.add_row(cost.way, *times, *faster, *sizes)
    wide_console().print(f"{length} values of {bits} bits, {cohort} markets, {repeat} repetitions", table)
    say("sum: end to end, markets at the same time; all machines: their time added up")
    say("B: bytes a value; least: what no code goes below, for values that look uniform, as masked ones do")
    say("faster, smaller: against the first way, in the same repetition; mean and 95 % interval")


@bench_app.command(
    "noise",
    short_help="Cost of exact noise.",
    help="Draws a second on one core, beside PyTorch's generator.\n\nExample: fedmm bench noise --draws 10000000",
)
def noise(
    draws: Annotated[int, typer.Option(min=1000, help="Draws of a repetition.")] = 1_000_000,
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, all ways in each.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench noise``."""
    from experiments.benchmarks.noise import measure_noise  # what draws

    with TaskProgress("measuring", quiet=as_json):
        found = measure_noise(draws, repeat)
    if as_json:
        say_json([asdict(cost) for cost in found])
        return
    table = Table("way", "seconds", "rate", "slower")
    for cost in found:
        table.add_row(cost.way, *(estimate_text(asdict(one)) for one in (cost.seconds, cost.rate, cost.slower)))
    wide_console().print(f"{draws} draws, one core, {repeat} repetitions", table)
    say("rate: million draws a second; slower: against the first way, in the same repetition")


@bench_app.command(
    "dp-sgd",
    short_help="Cost of a DP-SGD step.",
    help="A DP-SGD step of the RQ-VAE on one core, and on a GPU if there is one, against one without privacy, beside "
    "Opacus' hooks, its ghost clipping, and torch.func.\n\nExample: fedmm bench dp-sgd --batch 1024",
)
def dp_sgd(
    batch: Annotated[int, typer.Option(min=8, help="Rows of a step, on average.")] = 1024,
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, all ways in each.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench dp-sgd``."""
    from experiments.benchmarks.dp_sgd import measure_steps  # what trains

    with TaskProgress("measuring", quiet=as_json):
        found = measure_steps(batch, repeat)
    if as_json:
        say_json({"bench": "dp-sgd", "rows": [asdict(cost) for cost in found]})
        return
    table = Table("step", "ms", "slower")
    for cost in found:
        slower = estimate_text({"value": cost.ratio, "low": cost.low, "high": cost.high})
        table.add_row(cost.what, f"{1000 * cost.seconds.value:.1f}", slower)
    wide_console().print(f"steps on batches of {batch}, one core, {repeat} repetitions", table)
    say("slower: than a step without privacy, in the same repetition; mean and 95 % interval")


@bench_app.command(
    "ctr",
    short_help="Training of CTR models.",
    help="Samples a second of training a network on ids beside FuxiCTR, and boosted trees on counts, scores and times "
    "beside LightGBM: the same examples, choices and stopping rule, one thread. Both are found by an interpreter that "
    "has them; what it has not is left out. Your privacy account hears of it.\n\n"
    "Example: fedmm bench ctr xmarket --python fuxi/bin/python --repeat 5",
)
def ctr(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    model: Annotated[str, typer.Option(help="deepfm, dcnv2, autoint or finalmlp.")] = "deepfm",
    python: Annotated[
        Path | None,
        typer.Option(envvar="FEDMM_BENCH_PYTHON", help="Interpreter that has fuxictr, lightgbm, or both."),
    ] = None,
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, all ways in each, with a seed of its own.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench ctr``."""
    settings = resolve(config, overrides or [])
    from experiments.benchmarks.ctr.measure import KINDS, measure_training  # what trains

    if model not in KINDS:
        raise ConfigError(f"--model {model}: one of {', '.join(KINDS)}")
    with TaskProgress("measuring", quiet=as_json):
        found = measure_training(settings, KINDS[model], python, repeat)
    if as_json:
        say_json({"bench": "ctr", **asdict(found)})
        return
    table = Table("market", "model", "way", "1,000 samples a second", "faster", "AUC", "ahead")
    for row in found.rows:
        faster = "–" if row.ratio is None else f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"
        ahead = "–" if row.ahead is None else difference_text(asdict(row.ahead))
        rate, auc = estimate_text(asdict(row.rate)), interval_text(asdict(row.auc))
        table.add_row(row.market, row.model, row.what, rate, faster, auc, ahead)
    wide_console().print(f"one core, {repeat} repetitions", table)
    for library, version in found.versions.items():
        say(f"{library} {version}")
    for library, why in found.missing.items():
        say(f"{library} left out: {why}")
    say("faster, ahead: against the other library, in the same repetition; mean and 95 % interval")


@bench_app.command(
    "all",
    short_help="What needs no data, in one table.",
    help="Exact noise, a DP-SGD step, scoring and encrypted sums, against each one's first way; scoring for each byte "
    "that must be read or written, against a copy of memory.\n\n"
    "Example: fedmm bench all --json",
)
def everything(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    repeat: Annotated[int, typer.Option(min=3, help="Repetitions, all ways in each.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench all``."""
    settings = resolve(config, overrides or [])
    from experiments.benchmarks.everything import measure_everything  # what trains and encrypts

    with TaskProgress("measuring", quiet=as_json):
        found = measure_everything(settings, repeat)
    if as_json:
        say_json({"bench": "all", "rows": [asdict(row) for row in found]})
        return
    table = Table("bench", "way", "slower")
    for row in found:
        table.add_row(row.bench, row.what, estimate_text({"value": row.ratio, "low": row.low, "high": row.high}))
    wide_console().print(table)
    say("slower: seconds over those of the bench's first way, in the same repetition; mean and 95 % interval")
    say("scoring: for each byte that must be read or written")


@bench_app.command(
    "shadows",
    short_help="Shadow pipelines a minute.",
    help="Shadow pipelines a minute: side by side over processes, against a loop of single fits; on a GPU too, if "
    "there is one.\n\n"
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
        found = [
            cost for one in target or ["fedmm"] for cost in bench_shadows(settings, name, one, models, repetitions)
        ]
    if as_json:
        say_json([asdict(cost) for cost in found])
        return
    table = Table(
        *("target", "device", "looped, a minute", "together, a minute", "speed-up", "AUC looped", "AUC together", "gap")
    )
    for cost in found:
        fields = (cost.looped, cost.together, cost.speed_up, cost.auc_looped, cost.auc_together, cost.difference)
        table.add_row(cost.target, cost.device, *(estimate_text(asdict(field)) for field in fields))
    wide_console().print(f"shadow pipelines of market {name}, {settings.workers} workers", table)


@bench_app.command(
    "join",
    short_help="What joining is worth to a market.",
    help="What the federation is worth to a market that joins: test AUC by the share of its users that it knows, "
    "alone, with a head of generated markets, with one that was fitted to the other markets alone (head.trees), and "
    "with both; each market left out in turn.\n\n"
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
    from experiments.benchmarks.joining import SHARES, measure_joining, worth  # what trains

    with TaskProgress("measuring", quiet=as_json):
        found = measure_joining(settings, share or SHARES, draws, workers or settings.workers)
    needed = worth(found)
    if as_json:
        say_json({"bench": "join", "rows": [asdict(row) for row in found], "worth": [asdict(row) for row in needed]})
        return
    start = "federation" if settings.head.trees else "generated"
    names = ["popularity", "alone", "generated", *(["federation"] if settings.head.trees else []), "both"]
    table = Table("market", "users", *names, f"{start} - alone")
    for row in found:
        figures = (interval_text(asdict(getattr(row, name))) for name in names)
        table.add_row(row.market, f"{row.users} ({row.share:.0%})", *figures, difference_text(asdict(row.gain)))
    wide_console().print(
        "test AUC; mean and 95 % interval over draws; differences paired, a bootstrap over users", table
    )
    for one in needed:
        ahead = "with all of them" if one.crossing is None else f"up to {one.crossing:.0f} of its own"
        ahead = "nowhere" if one.crossing == 0 else ahead
        whose = "the federation's head" if settings.head.trees else "a head of generated markets"
        say(f"{one.market:<6} {one.users} users; {whose} is ahead {ahead}")


@bench_app.command(
    "scale",
    short_help="How cost grows with users, items, markets, codes.",
    help="Time and memory of whole runs on generated markets: users, items, markets and codes doubled in turn; every "
    "run in a fresh process.\n\nExample: fedmm bench scale --axis users --from users=4000 --doublings 3",
)
def scale(
    config: Annotated[str, typer.Argument(metavar="[CONFIG]", help="Shipped name or YAML file.")] = QUICKSTART,
    overrides: SetOption = None,
    axis: Annotated[list[str] | None, typer.Option(help="What is doubled; repeat. Default: all four.")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="AXIS=SIZE",
            help="Smallest size; repeat. Default: users 1000, items 200, markets 3, codes 16.",
        ),
    ] = None,
    doublings: Annotated[int, typer.Option(min=1, max=12, help="How often each is doubled.")] = 2,
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, all sizes in each.")] = 2,
    figure: Annotated[
        Path | None, typer.Option(metavar="NAME", help="Draw the curves too: NAME.svg, NAME.png, NAME.csv.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench scale``."""
    from experiments.benchmarks.scale import SMALLEST, measure_scale, smallest  # what trains

    for name in axis or ():
        if name not in SMALLEST:
            raise ConfigError(f"--axis {name}: one of {', '.join(SMALLEST)}")
    base = smallest(start or [])
    with TaskProgress("measuring", quiet=as_json):
        found = measure_scale(config, overrides or [], base, axis or list(SMALLEST), doublings, repeat)
    if figure is not None:
        from experiments.benchmarks.scale_figure import draw_scale

        draw_scale(figure, found)
    if as_json:
        say_json({"bench": "scale", "rows": [asdict(curve) for curve in found]})
        return
    table = Table("what", "size", "seconds", "MB", "exponent", "of the last doubling", "of memory")
    for curve in found:
        for point in curve.points:
            cost = (f"{point.seconds.value:.1f}", f"{point.memory.value / 1e6:.0f}")
            table.add_row(curve.what, str(point.size), *cost, "", "", "")
        whole = estimate_text({"value": curve.ratio, "low": curve.low, "high": curve.high})
        table.add_row(curve.what, "", "", "", whole, *(estimate_text(asdict(e)) for e in (curve.last, curve.memory)))
    wide_console().print(table)
    say("seconds: processor time of a whole run; MB: the most that its process had; exponent: cost grows as size to it")


@bench_app.command(
    "drift",
    short_help="How models age, and what refitting costs.",
    help="Train before a date and test in later periods, with the model of that date and with one that was fitted "
    "again before each period; with a budget, what the refits cost in ε. Each period is a run, and your privacy "
    "account hears of all of them.\n\nExample: fedmm bench drift xmarket --out runs/drift",
)
def drift(
    config: Annotated[str, typer.Argument(help="Shipped name or YAML file.")] = SYNTHETIC,
    overrides: SetOption = None,
    before: Annotated[float, typer.Option(min=0.1, max=0.95, help="Share of all rows before the date.")] = 0.6,
    periods: Annotated[int, typer.Option(min=1, max=20, help="After it, with equally many rows.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default: runs/<time>-drift.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm bench drift``."""
    settings = resolve(config, overrides or [])
    folder = out or run_directory.default_directory("drift")
    if folder.exists() and any(folder.iterdir()):
        raise RunDirectoryError(f"{folder}: not empty; give another --out")
    from experiments.benchmarks.drift import measure_drift  # what trains

    with TaskProgress("measuring", quiet=as_json):
        found = measure_drift(settings, folder, before=before, periods=periods)
    if as_json:
        say_json({"bench": "drift", "rows": [asdict(row) for row in found]})
        return
    table = Table("market", "period", "positives", "popularity", "frozen", "refitted", "gain", "ε frozen", "ε refitted")
    for row in found:
        figures = (figure_text(one) for one in (row.popularity, row.frozen, row.refitted))
        epsilons = ("∞" if one is None else epsilon_text(one) for one in row.epsilon)
        gain = difference_text(asdict(row.gain))
        table.add_row(row.market, str(row.period), str(row.positives), *figures, gain, *epsilons)
    wide_console().print("test AUC after the date; gain: refitted minus frozen, 95 % over users", table)
    say("ε: of all that was released until then, to who gets models and has rows in every run")
