import shutil
from pathlib import Path

import pytest

from experiments.compliance.document import SignedReport
from experiments.compliance.signing import read_report
from tests.command_line import call
from tests.released import made_once, signers_card


def account_of(run: Path) -> Path:
    return run.parent / "privacy.account"


@pytest.fixture(scope="session")
def exported(released_run, tmp_path_factory) -> Path:
    """The session's run with its report in every format: made by one command, and never changed."""

    def make(folder: Path) -> None:
        run = Path(shutil.copytree(released_run, folder / "run"))
        shutil.copy(account_of(released_run), account_of(run))
        for name in released_run.parent.glob("privacy*"):
            shutil.copy(name, folder / name.name)
        keys = signers_card(released_run).parent
        shutil.copytree(keys, folder / keys.name)
        options = ("--compliance", "--sign", keys, "--max-epsilon", 20, "--dsse", "--bom", "--registry")
        assert call("report", run, *options, "--account", account_of(run)) == 0

    return made_once(tmp_path_factory, "exported", make) / "run"


@pytest.fixture
def exported_copy(exported, tmp_path) -> Path:
    """A copy of it that may be changed, with its account beside it."""
    return Path(shutil.copytree(exported.parent, tmp_path / "runs")) / "run"


@pytest.fixture(scope="session")
def report(exported) -> SignedReport:
    return read_report(exported / "compliance.json")[0]
