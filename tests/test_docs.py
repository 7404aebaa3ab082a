"""The documentation builds without warnings, its notebooks run, and its reference is complete."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from jupyter_client.provisioning import local_provisioner
from markdown.extensions.toc import slugify
from pydantic import BaseModel

from experiments.cli import Commands
from experiments.sweep.grid import shipped_grids
from fedmm_secure.config import Config
from tests.kernels import fork_kernel

ROOT = Path(__file__).parents[1]


SMALL = {
    "quantizer": {"latent_dim": 4, "hidden_dim": 16},
    "federation": {"rounds": 2},
    "ctr": {"baselines": ["popularity"], "max_epochs": 2},
    "privacy": {"pseudo_users": 100, "ctr": {"steps": 4}},
}

# in the kernels of the notebooks: no processes of their own, small markets and models
STARTUP = f"""
import joblib
from fedmm_secure import api, config
from tests.smaller import fewer_trees, smaller
_few = fewer_trees()
_few.__enter__()
joblib.parallel_config(backend="sequential")
_spec, _read = config.SyntheticSpec, api.config_from_data
config.SyntheticSpec = lambda **sizes: _spec(**{{**sizes, "users": 100, "items": 60}})
api.config_from_data = lambda sections, *, source: _read(smaller(sections, {SMALL}), source=source)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    out, startup = folder / "site", folder / "profile_default" / "startup" / "small.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setattr(local_provisioner, "launch_kernel", fork_kernel)
        patch.chdir(ROOT)
        build_site(out)
    return out


def build_site(out):
    """As ``mkdocs build --strict``, which fails on a warning; no index to search, no processes that wrap lines."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), strict=True)
    config.plugins["material/search"].config["enabled"] = False
    config.plugins["mkdocstrings"].config["handlers"]["python"]["options"]["line_length"] = 10_000
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()


@pytest.mark.slow
def test_the_site_is_built_as_readers_build_it(tmp_path):
    """The command, and notebooks at their own size."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING -" not in done.stderr
    assert (tmp_path / "site" / "notebooks" / "tour.html").is_file()


def text(path):
    return re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))


def test_the_notebooks_ran(site):
    tour, own = (text(site / "notebooks" / f"{name}.html") for name in ("tour", "own-data"))
    assert re.search(r"'m0': \((\d+), 60,", html.unescape(tour))[1] == "100"  # on the small markets
    assert "claimed epsilon 1, the ledger gives" in tour  # the edited figure was found
    shares = dict(re.findall(r"'(\w*-?ckks)', 'collusion[^']*'\): (\d\.\d)", html.unescape(tour)))
    assert shares == {"ckks": "1.0", "masked-ckks": "0.0"}
    assert "broken.csv:3" in own
    assert re.search(r"0\.\d+", own)


def test_the_configuration_reference_names_every_key(site):
    page = text(site / "reference" / "configuration.html")

    def keys(model, prefix=""):
        for name, field in model.model_fields.items():
            inner = field.annotation
            yield from keys(inner, f"{prefix}{name}.") if hasattr(inner, "model_fields") else [f"{prefix}{name}"]

    missing = [key for key in keys(Config) if key.split(".")[-1] not in page]
    assert missing == []
    assert "data.markets.NAME.path" in page


def test_every_key_says_what_it_means():
    def silent(model):
        for name, field in model.model_fields.items():
            parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
            inner = [part for part in parts if issubclass(part, BaseModel)]
            for section in inner:
                yield from silent(section)
            if not inner and not field.description:
                yield f"{model.__name__}.{name}"

    assert list(silent(Config)) == []


def test_the_command_reference_names_every_command(site):
    page = text(site / "reference" / "commands.html")
    assert [name for name in Commands.entries if f"fedmm {name}" not in page] == []
    assert "fedmm data info" in page


def test_the_grid_reference_shows_every_grid(site):
    page = text(site / "reference" / "grids.html")
    assert all(name in page for name in shipped_grids())


def test_the_python_reference_has_the_packages(site):
    for package, name in (
        ("privacy", "DPSGDTrainer"),
        ("attacks", "recover_deltas"),
        ("experiments", "build_document"),
    ):
        assert name in text(site / "reference" / f"{package}.html")


def test_nothing_is_loaded_from_elsewhere(site):
    for page in (site / "index.html", site / "tutorial.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert [link for link in loaded if "canonical" not in link] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """Files, and headings within them: a section that is lost takes its links with it."""
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http", "reference/", "../reference/")):
            continue
        page = path.parent / target if target else path
        assert page.exists(), target
        assert not heading or heading in headings(page), f"{target}#{heading}"


def headings(page):
    """Anchors of a page, as the site names them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {slugify(heading.replace("`", ""), "-") for heading in found}
