"""Pages in a real browser: no errors, nothing loaded, readable on a phone, reachable by keyboard, contrast AA."""

import shutil

import pytest
import yaml

from tests.command_line import call
from tests.conftest import TINY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = (400, 1400)
PAGES = ("run", "sweep", "compliance")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind, with attacks, findings-free, by name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    grid = {
        "base": str(folder / "tiny.yaml"),
        "blocks": [
            {"axes": {"privacy.protect": ["release"], "privacy.epsilon": [4, 8]}},
            {"axes": {"privacy.epsilon": [None]}},
        ],
        "set": {"ctr.baselines": ["popularity"]},
    }  # fmt: skip
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    out = folder / "sweep"
    assert call("sweep", folder / "grid.yaml", "--out", out, "--quiet", "--workers", 2) == 0
    run = next((out / "cells").glob("*epsilon-8*"))
    assert (
        call(
            "attack",
            run,
            "--attack",
            "inversion",
            "--attack",
            "membership",
            "--market",
            "m0",
            "--shadows",
            4,
            "--quiet",
        )
        == 0
    )
    assert call("report", run) == 0
    call("report", run, "--compliance", "--max-epsilon", 8)  # status 1: another run has no budget
    return {"run": run / "report.html", "sweep": out / "report.html", "compliance": run / "compliance.html"}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


@pytest.fixture
def show(browser, pages):
    """Open a page; returns it and what it complained about or tried to load."""
    contexts = []

    def opened(name, width=1400, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if not _own(request.url) else None)
        page.goto(pages[name].as_uri())
        return page, complaints

    yield opened
    for context in contexts:
        context.close()


def _own(url):
    return url.startswith(("file:", "data:"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(show, name, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page, complaints = show(name, width, scheme)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert [(v["id"], v["nodes"][0]["html"][:100]) for v in found.response["violations"]] == []
    sizes = page.evaluate(
        "[...document.querySelectorAll('main p, main td, main li')].filter(e => e.checkVisibility())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert len(sizes) > 20
    assert min(sizes) >= 14


@pytest.mark.parametrize("name", PAGES)
def test_everything_is_reached_by_keyboard(show, name):
    page, _ = show(name)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, select, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()).map((e, i) => { e.dataset.nr = i; return i; })"
    )
    assert len(wanted) > 5
    reached = set()
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
        number = page.evaluate("document.activeElement.dataset.nr ?? null")
        if number is not None:
            reached.add(int(number))
    assert reached == set(wanted)


def test_a_table_is_sorted_by_keyboard(show):
    page, _ = show("run")
    head = page.locator("#accuracy table.sortable thead button").first
    column = "[...document.querySelector('#accuracy table.sortable').tBodies[0].rows].map(r => r.cells[0].textContent)"
    before = page.evaluate(column)
    head.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    after = page.evaluate(column)
    assert after[:-1] == sorted(before[:-1], reverse=True)
    assert after[-1] == "macro"  # the mean stays last
    assert page.locator("#accuracy table.sortable th").first.get_attribute("aria-sort") == "descending"


def test_one_codebook_figure_shows_at_a_time(show):
    page, _ = show("run")
    for kind in ("movement", "map", "usage"):
        page.select_option("select[data-shows=codebook]", kind)
        visible = page.locator(".codebook").evaluate_all(
            "parts => parts.filter(p => !p.hidden).map(p => p.dataset.name)"
        )
        assert visible == [kind]


def test_the_theme_can_be_turned(show):
    page, _ = show("run", scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    dark = page.evaluate(ground)
    page.click("#theme")
    assert light != dark
    assert page.evaluate(ground) == light


def test_all_content_is_there_without_scripts(browser, show):
    page, _ = show("run", java_script_enabled=False)
    assert page.locator(".codebook figure").count() == page.locator(".codebook figure:visible").count() == 3
    assert "accountants" in page.text_content("main")


def test_a_figure_carries_its_numbers(show):
    page, _ = show("run")
    with page.expect_download() as download:
        page.locator("#accuracy figcaption a").first.click()
    text = download.value.path().read_text()
    assert text.splitlines()[0] == "market,model,auc"
    assert len(text.splitlines()) == 1 + 3 * 2


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique(show, name):
    page, _ = show(name)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
