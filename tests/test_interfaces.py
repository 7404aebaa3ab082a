"""How wide interfaces are: what exceeds a bound stands here with its reason, and nothing else does.

A function of more than seven parameters wants a dataclass, a function within a function of more than twenty lines a
name of its own, a ``dict[str, Any]`` between modules a type; a module of more than 400 lines is two.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "experiments", "fedmm_secure", "privacy")
MOST_PARAMETERS, MOST_NESTED, MOST_LINES = 7, 20, 400
_OPTIONS = "a command: each option is a parameter"
WIDE = {
    ("experiments/assessment/attack.py", "attack_run"): "options of fedmm attack, for who calls it from Python",
    ("experiments/assessment/audit.py", "audit"): "options of fedmm audit, for who calls it from Python",
    ("experiments/commands/attack.py", "attack"): _OPTIONS,
    ("experiments/commands/audit.py", "audit"): _OPTIONS,
    ("experiments/commands/bench.py", "scale"): _OPTIONS,
    ("experiments/commands/init.py", "init"): _OPTIONS,
    ("experiments/commands/report.py", "report"): _OPTIONS,
    ("experiments/commands/run.py", "run"): _OPTIONS,
    ("experiments/commands/sweep.py", "sweep"): _OPTIONS,
    ("experiments/commands/verify.py", "verify"): _OPTIONS,
    ("experiments/presentation/console.py", "render_str"): "overrides rich's, which has these",
    ("fedmm_secure/ctr/dataset.py", "training_part"): "how examples of one part are drawn; all but rows are by keyword",
    ("fedmm_secure/ctr/market_models.py", "train_market"): "the whole input of a process that trains one market",
    ("fedmm_secure/ctr/models/private.py", "fit"): "DP-SGD's hyper-parameters, as the configuration has them",
    ("fedmm_secure/federation/door.py", "__init__"): "all that crosses a privacy boundary, in sight in one place",
    ("fedmm_secure/federation/parties.py", "make_agreement"): "what one market agrees to, from whichever engine",
    ("fedmm_secure/federation/parties.py", "open_federation"): "what engines differ in, by keyword",
    ("fedmm_secure/federation/server.py", "__init__"): "public material of a run, by keyword",
    ("fedmm_secure/federation/transcript.py", "add"): "fields of a record, by keyword",
}
_JSON = "to or from JSON"
LOOSE = {  # modules whose public functions take or give a ``dict[str, Any]``, and what it is
    "attacks/metrics.py": _JSON,
    "experiments/assessment/membership.py": "a result of an attack, as it is kept",
    "experiments/assessment/statements.py": "settings and results of an attack, as they are kept",
    "experiments/compliance/document.py": "a JSON schema",
    "experiments/deploy/key_plans.py": "numbers that a command prints",
    "experiments/deploy/server.py": "Flower's configuration of a run",
    "experiments/exports/bom.py": "a CycloneDX document",
    "experiments/presentation/text.py": "metrics.json, whoever wrote it",
    "experiments/reports/accuracy.py": "metrics.json, whoever wrote it",
    "experiments/reports/codebook.py": "metrics.json, whoever wrote it",
    "experiments/reports/privacy.py": "privacy statements of metrics.json",
    "experiments/reports/run.py": "metrics.json, whoever wrote it",
    "experiments/reports/run_figures.py": "metrics.json, whoever wrote it",
    "experiments/reports/screen.py": "privacy statements of metrics.json",
    "experiments/runs/tracking.py": "fields of an event of the log",
    "experiments/verification/evidence.py": "metrics.json, whoever wrote it",
    "experiments/verification/run.py": _JSON,
    "experiments/verification/schemas.py": "files of a run directory, whoever wrote them",
    "fedmm_secure/ctr/models/neural.py": "torch's state of a model",
    "fedmm_secure/ctr/models/private.py": "torch's state of a model",
    "fedmm_secure/data/catalogue.py": _JSON,
    "fedmm_secure/data/prepare.py": "sizes of a market, for metrics.json",
    "fedmm_secure/federation/across_markets.py": "metrics.json",
    "fedmm_secure/federation/aggregation_plan.py": "the aggregation's part of a bundle, as JSON",
    "fedmm_secure/federation/canaries.py": "parts of the statements of first and last lines",
    "fedmm_secure/federation/closed_run.py": "torch's state of a model",
    "fedmm_secure/federation/closing.py": "metrics.json, and the statement of a last line",
    "fedmm_secure/federation/coins.py": "a part of the statement of a first line",
    "fedmm_secure/federation/door.py": "the statement of a last line",
    "fedmm_secure/federation/opening.py": "the statement of a first line",
    "fedmm_secure/federation/orders.py": _JSON,
    "fedmm_secure/guarantee/statement.py": "privacy statements of metrics.json",
    "fedmm_secure/pipeline.py": "fields of an event of the log",
    "fedmm_secure/quantization/movement.py": "torch's state of a model",
    "fedmm_secure/quantization/training.py": "torch's state of a model",
    "fedmm_secure/results/metrics.py": "parts of metrics.json",
    "fedmm_secure/results/tasks.py": "parts of metrics.json",
    "fedmm_secure/storage/cache.py": "what a result depends on, as JSON",
    "fedmm_secure/storage/encoding.py": "torch's state of a model",
    "fedmm_secure/storage/provenance.py": "environment.json",
    "fedmm_secure/storage/run_directory.py": "metrics.json and environment.json",
    "privacy/accounting/account_lines.py": _JSON,
    "privacy/accounting/account_file.py": "what a line says, as JSON",
    "privacy/accounting/events.py": _JSON,
    "privacy/accounting/ledger.py": _JSON,
    "privacy/accounting/lines.py": _JSON,
    "privacy/accounting/spendings.py": _JSON,
    "privacy/aggregation/identities.py": _JSON,
    "privacy/aggregation/bundle.py": _JSON,
    "privacy/foreign.py": _JSON,
}
ANY = {"dict[str, Any]", "Mapping[str, Any]"}


@cache
def trees():
    """Name and source of every module."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@cache
def nodes(source):
    return list(ast.walk(ast.parse(source)))


def functions(source):
    return [node for node in nodes(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def parameters(function):
    return [
        a
        for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if a.arg not in ("self", "cls")
    ]


def wide(source):
    return {found.name for found in functions(source) if len(parameters(found)) > MOST_PARAMETERS}


def nested(source):
    """Functions within functions that are too long."""
    return {
        inner.name
        for outer in functions(source)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.FunctionDef) and inner is not outer and inner.end_lineno - inner.lineno >= MOST_NESTED
    }


def loose(source):
    """Public functions whose parameters or value are a ``dict[str, Any]``."""
    return {
        found.name
        for found in functions(source)
        if not found.name.startswith("_")
        for annotation in (found.returns, *(parameter.annotation for parameter in parameters(found)))
        if annotation is not None and ast.unparse(annotation) in ANY
    }


LAYOUT = "fedmm_secure/storage/layout.py"
FOLDERS = {"ledger", "transcript", "private", "codes", "models", "predictions", "attacks", "audit"}
FILES = {"config.yaml", "environment.json", "metrics.json", "log.jsonl", "report.html"}
ELSEWHERE = {
    ("experiments/assessment/audit.py", "out / audited.market / 'audit'"): "a figure in an auditor's own folder",
    ("privacy/accounting/places.py", "home / '.local' / 'state'"): "no run directory",
}


def spelled(source):
    """Paths of a run directory that are put together by hand."""
    found = set()
    for node in nodes(source):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
            continue
        for side in (node.left, node.right):
            first = side.values[0] if isinstance(side, ast.JoinedStr) and side.values else side
            text = str(first.value) if isinstance(first, ast.Constant) else ""
            if text.split("/")[0] in FOLDERS | FILES | {"state"}:
                found.add(ast.unparse(node))
    return found


def test_paths_of_a_run_directory_are_spelled_in_one_place():
    found = {(name, path) for name, source in trees() for path in spelled(source) if name != LAYOUT}
    assert found == ELSEWHERE.keys()


def test_functions_of_many_parameters_have_their_reason():
    assert {(name, function) for name, source in trees() for function in wide(source)} == WIDE.keys()


def test_functions_within_functions_are_short():
    assert {(name, function) for name, source in trees() for function in nested(source)} == set()


def test_dictionaries_between_modules_have_their_reason():
    assert {name for name, source in trees() if loose(source)} == LOOSE.keys()


def test_modules_are_short():
    assert [name for name, source in trees() if source.count("\n") > MOST_LINES] == []


def test_every_module_says_what_it_is_about():
    silent = [name for name, source in trees() if source.strip() and not ast.get_docstring(nodes(source)[0])]
    assert silent == []


@pytest.mark.parametrize(
    ("search", "source"),
    [
        (wide, "def f(a, b, c, d, *, e, f, g, h): ..."),
        (nested, "def f():\n    def g():\n" + "        x = 1\n" * 20),
        (spelled, "path = run / 'ledger' / f'{market}.jsonl'"),
        (spelled, "path = run / f'models/{market}'"),
        (loose, "def f(x) -> dict[str, Any]: ..."),
        (loose, "class A:\n    def f(self, x: Mapping[str, Any]): ..."),
    ],
)
def test_the_search_finds_what_it_looks_for(search, source):
    assert search(source)
