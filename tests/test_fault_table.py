"""The fault matrix in the documentation is the one that the tests hold to."""

from pathlib import Path

from tests.experiments.deploy import test_flower_engine
from tests.faults import EXPECTED, FAULTS, KINDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "threat-model.md"


def fault_table() -> str:
    """Rows of faults, columns of aggregators; a cell where the engines differ names both."""
    lines = ["| one of four markets … | " + " | ".join(f"`{kind}`" for kind in KINDS) + " |", "|---|---|---|---|"]
    for fault in FAULTS:
        cells = []
        for kind in KINDS:
            in_process, flower = EXPECTED[fault, kind], test_flower_engine.EXPECTED[fault, kind]
            cells.append(in_process if in_process == flower else f"{in_process}; on Flower {flower}")
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_documented_matrix_is_the_tested_one():
    assert fault_table() in DOCUMENT.read_text(encoding="utf-8"), fault_table()
