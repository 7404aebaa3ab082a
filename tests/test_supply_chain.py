"""The lock file holds all that is installed, by hash; an audit that looked nothing up says so."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def load_audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked():
    blocks = re.split(r"\n(?=[a-z0-9])", LOCK.partition("\n")[2])
    return {re.match(r"[a-z0-9-]+", block)[0]: block for block in blocks}


def test_every_package_has_a_version_and_hashes_and_no_address():
    packages = locked()
    assert len(packages) > 150
    for name, block in packages.items():
        assert re.match(rf"{name}==\S+ ", block), name
        assert "--hash=sha256:" in block, name
    assert "://" not in LOCK
    assert packages["torch"].startswith("torch==2.13.0+cpu ")
    assert not any(name.startswith(("nvidia", "cuda")) for name in packages)


def test_what_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["dev"], *extras["deploy"], *extras["docs"], *extras["tracking"]]
    names = {re.match(r"[A-Za-z0-9-]+", one)[0].lower() for one in asked} - {"fedmm-secure"}
    assert names <= locked().keys()


def test_make_installs_from_the_lock_alone():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in makefile
    assert "--no-deps --no-build-isolation --editable ." in makefile


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "nothing is known"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}', 1, "CVE-1"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 2, "NO VERDICT"),
        ('{"dependencies": []}', 2, "NO VERDICT"),
        ("", 2, "NO VERDICT"),
    ],
)
def test_an_audit_that_looked_nothing_up_is_not_green(text, status, word):
    found, lines = load_audit().verdict(text)
    assert found == status
    assert word in lines[0]
    assert not text or json.loads(text)
