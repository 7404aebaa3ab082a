"""What somebody else wrote is read by one loader: nothing that reads runs, reports and evidence opens a file itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READERS = sorted(
    path
    for pattern in (
        "attacks/views.py",
        "experiments/assessment/*.py",
        "experiments/compliance/*.py",
        "experiments/reports/*.py",
        "experiments/runs/*.py",
        "experiments/sweep/*.py",
        "experiments/verification/*.py",
        "fedmm_secure/federation/closing.py",
        "fedmm_secure/federation/transcript.py",
        "fedmm_secure/results/*.py",
        "fedmm_secure/storage/run_directory.py",
        "privacy/accounting/*.py",
    )
    for path in ROOT.glob(pattern)
)
COMMANDS = sorted(
    path
    for path in ROOT.glob("experiments/**/*.py")
    if path.relative_to(ROOT).as_posix() != "experiments/presentation/console.py"
)
METHODS = {"read_text", "read_bytes"}  # of a path, called or handed on; "open" is a name of other things too
FUNCTIONS = {"open", "read_config", "load_yaml"}
OF_MODULES = {
    "json": {"load", "loads"},
    "np": {"load", "fromfile", "loadtxt", "genfromtxt", "memmap"},
    "os": {"open"},
    "pd": {name for name in dir(__import__("pandas")) if name.startswith("read_")},
    "pickle": {"load", "loads"},
    "pq": {"ParquetFile", "read_table", "read_schema", "read_metadata"},
    "tarfile": {"open"},
    "torch": {"load"},
    "yaml": {"load", "safe_load", "full_load", "unsafe_load", "scan", "parse", "compose"},
    "zipfile": {"ZipFile"},
}
ALLOWED = {
    ("experiments/compliance/document.py", "json.loads"),  # the schema that comes with the package
    ("experiments/compliance/document.py", ".read_text"),
    ("experiments/assessment/statements.py", "json.loads"),  # of what was dumped in the same line
    ("fedmm_secure/storage/run_directory.py", "load_yaml"),  # the configuration of one's own run, to go on with it
    ("experiments/runs/configuration.py", "load_yaml"),  # a configuration that one's own command line names
    ("experiments/runs/markets.py", ".read_bytes"),  # one's own files, before they would be written over
    ("experiments/sweep/grid.py", "load_yaml"),  # a grid that one's own command line names
    ("experiments/sweep/scheduler.py", "load_yaml"),  # and the configurations that it names, when it is kept
}


def openings(source: str) -> list[str]:
    """How a module opens files or parses what is in them, by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            found.append(node.func.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "open":
            found.append(".open")
        if not isinstance(node, ast.Attribute):
            continue
        module = node.value.id if isinstance(node.value, ast.Name) else None
        if module in OF_MODULES:
            if node.attr in OF_MODULES[module]:
                found.append(f"{module}.{node.attr}")
        elif node.attr in METHODS:
            found.append(f".{node.attr}")
    return found


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_reader_opens_no_file_itself(path):
    name = path.relative_to(ROOT).as_posix()
    assert [way for way in openings(path.read_text(encoding="utf-8")) if (name, way) not in ALLOWED] == []


def test_tensors_are_read_in_one_place():
    """Where it is known that they are an archive; a market reads its own state besides."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("attacks", "experiments", "fedmm_secure", "privacy")
        for path in (ROOT / package).rglob("*.py")
        if "torch" in (source := path.read_text(encoding="utf-8")) and "torch.load" in openings(source)
    }
    assert found == {"fedmm_secure/federation/round_client.py", "fedmm_secure/foreign/formats.py"}


def test_there_are_readers_and_what_is_allowed_is_used():
    assert len(READERS) > 30
    used = {(name, way) for name, _ in ALLOWED for way in openings((ROOT / name).read_text(encoding="utf-8"))}
    assert used >= ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open()",
        "json.loads(path.read_text())",
        "yaml.safe_load(text)",
        "torch.load(path, weights_only=True)",
        "pd.read_parquet(path)",
        "pq.ParquetFile(path)",
        "np.load(path)",
        "read = path.read_bytes",
        "config = read_config(run)",
    ],
)
def test_ways_to_open_a_file_are_found(line):
    assert openings(line)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_command_prints_through_the_console_alone(path):
    """Foreign text is stripped of what a terminal acts on in one place."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not names & {"print", "Console"}
