"""What is installed elsewhere is all that the packages need: source archive, wheel from it, and a start from that."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("privacy", "fedmm_secure", "attacks", "experiments")
BUILD = (
    "import sys; from setuptools import build_meta; import logging; logging.disable(logging.WARNING); "
    "print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
)
READ = """
import sys
from importlib import resources
for line in sys.stdin.read().splitlines():
    package, _, rest = line.partition("/")
    found = resources.files(package).joinpath(rest)
    assert str(found).startswith(sys.argv[1]), found
    assert found.is_file() and (found.read_bytes() or rest.endswith(("__init__.py", "py.typed"))), line
"""


def needed():
    """Every file of the packages."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def build(what, source, out):
    """The archive that setuptools makes of a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(out)], cwd=source, capture_output=True, text=True, check=True
    )
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Source archive, the wheel that is built from what is in it, and the wheel unpacked."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    sdist = build("build_sdist", source, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    wheel = build("build_wheel", unpacked, folder)
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return unpacked, wheel, folder / "site"


def outside(site, folder, *command, text=""):
    """A command with the unpacked wheel, in a folder that knows of no repository."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=300
    )


def test_wheel_and_source_archive_hold_every_file_of_the_packages_and_nothing_else(archives):
    unpacked, wheel, _ = archives
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(needed())
    assert [name for name in needed() if not (unpacked / name).is_file()] == []
    assert (unpacked / "LICENSE").is_file()


def test_installed_elsewhere_every_file_is_found_and_the_first_commands_work(archives, tmp_path):
    _, _, site = archives
    read = outside(site, tmp_path, "-c", READ, str(site), text="\n".join(needed()))
    assert (read.returncode, read.stderr) == (0, "")
    start = "import sys; from experiments.cli import main; sys.argv[0] = 'fedmm'; main()"
    shown = outside(site, tmp_path, "-c", start, "--help")
    assert shown.returncode == 0
    assert "report" in shown.stdout
    made = outside(site, tmp_path, "-c", start, "data", "synthesize", str(tmp_path / "markets"), "--markets", "2")
    assert (made.returncode, made.stderr) == (0, "")
    assert len(list((tmp_path / "markets").glob("*.csv*"))) == 2
