"""Pages in a real browser: no errors, nothing loaded, readable on a phone, reachable by keyboard, contrast AA."""

import json
import re
import shutil
from unittest.mock import patch

import pytest
import yaml

from experiments.reports.run import run_page
from experiments.verification.run import Examination
from tests.command_line import call
from tests.conftest import TINY
from tests.figure_sketch import drawn
from tests.people import as_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = (400, 1400)
PAGES = ("run", "sweep", "compliance")
LOOKS = [(name, width, scheme) for name in PAGES for width in WIDTHS for scheme in ("light", "dark")]
LOOKS += [("plain", 400, "light"), ("many", 400, "light"), ("many", 1400, "dark")]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"]}

pytestmark = [
    pytest.mark.usefixtures("few_trees"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


def unverified_page(run):
    """As if verification had found nothing, which takes longer than the rest of the page."""
    return run_page(run, run.name, Examination({}))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind, with attacks, findings-free, by name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(as_files(folder / "markets", **TINY)))
    grid = {
        "base": str(folder / "tiny.yaml"),
        "blocks": [
            {
                "axes": {"privacy.protect": ["release"], "privacy.epsilon": [4, 8]},
                "set": {"ctr.baselines": ["popularity", "noisy-popularity"], "privacy.ctr.steps": 10},
            },
            {
                "axes": {"privacy.epsilon": [None]},
                "set": {
                    "ctr.baselines": ["popularity"],
                    "evaluation.ranked_users": 20,
                    "evaluation.short_histories": [1, 2],
                },
            },
        ],
    }  # fmt: skip
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    out = folder / "sweep"
    with drawn():
        assert call("sweep", folder / "grid.yaml", "--out", out, "--quiet", "--workers", 2) == 0
    run = next((out / "cells").glob("*epsilon-8*"))
    rows = ("--data", folder / "markets", "--market", "m0")
    which = ("--attack", "inversion", "--attack", "membership", "--shadows", 4, "--unit", "user")
    assert call("attack", run, *rows, *which, "--quiet") == 0
    plain = next((out / "cells").glob("*epsilon-none*"))
    many = patch("experiments.reports.run.MANY_MARKETS", 2), patch("experiments.reports.run_figures.MANY_MARKETS", 2)
    with drawn():
        assert call("report", run) == 0
        call("report", run, "--compliance", "--max-epsilon", 8)  # status 1: no account can be read here
        (folder / "plain.html").write_text(unverified_page(plain))
        with many[0], many[1]:
            (folder / "many.html").write_text(unverified_page(run))
    return {
        "run": run / "report.html",
        "plain": folder / "plain.html",
        "many": folder / "many.html",
        "sweep": out / "report.html",
        "compliance": run / "compliance.html",
    }


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


def opened(context, path):
    """A page in a context, and what it complained about or tried to load."""
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not _own(request.url) else None)
    page.goto(path.as_uri())
    return page, complaints


@pytest.fixture
def show(browser, pages):
    """Open a page that the test may change."""
    contexts = []

    def fresh(name, width=1400, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        return opened(contexts[-1], pages[name])[0]

    yield fresh
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def look(browser, pages):
    """See a page, which is opened once, on a screen of some width and in some colours; with its complaints so far."""
    context, standing = browser.new_context(), {}

    def seen(name, width=1400, scheme="light"):
        page, complaints = standing[name] = standing.get(name) or opened(context, pages[name])
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        return page, complaints

    yield seen
    context.close()


def violations(page):
    """What axe-core finds: rules, and where."""
    from axe_playwright_python.sync_playwright import Axe

    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = "rules => axe.run(rules).then(found => found.violations.map(v => [v.id, v.nodes[0].html.slice(0, 100)]))"
    return page.evaluate(found, RULES)


def _own(url):
    return url.startswith(("file:", "data:"))


@pytest.mark.parametrize(("name", "width", "scheme"), LOOKS)
def test_a_page_is_accessible_and_fits(look, name, width, scheme):
    page, complaints = look(name, width, scheme)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    sizes = page.evaluate(
        "[...document.querySelectorAll('main p, main td, main li')].filter(e => e.checkVisibility())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert len(sizes) > 20
    assert min(sizes) >= 14


@pytest.mark.parametrize("name", PAGES)
def test_everything_is_reached_by_keyboard(show, name):
    page = show(name)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, select, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility()).map((e, i) => { e.dataset.nr = i; return i; })"
    )
    assert len(wanted) > 5
    page.evaluate("reached = []; document.addEventListener('focusin', event => reached.push(event.target.dataset.nr))")
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
    assert {int(number) for number in page.evaluate("reached") if number is not None} == set(wanted)


def test_a_table_is_sorted_by_keyboard(show):
    page = show("run")
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
    page = show("run")
    for kind in ("movement", "map", "usage"):
        page.select_option("select[data-shows=codebook]", kind)
        visible = page.locator(".codebook").evaluate_all(
            "parts => parts.filter(p => !p.hidden).map(p => p.dataset.name)"
        )
        assert visible == [kind]


def test_the_theme_can_be_turned(show):
    page = show("run", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    dark = page.evaluate(ground)
    page.click("#theme")
    assert light != dark
    assert page.evaluate(ground) == light


def test_all_content_is_there_without_scripts(browser, show):
    page = show("run", java_script_enabled=False)
    assert page.locator(".codebook figure").count() == page.locator(".codebook figure:visible").count() == 3
    assert "accountants" in page.text_content("main")


def test_a_figure_carries_its_numbers(show):
    page = show("run")
    with page.expect_download() as download:
        page.locator("#accuracy figcaption a").first.click()
    text = download.value.path().read_text()
    assert text.splitlines()[0] == "market,model,auc"
    assert len(text.splitlines()) == 1 + 3 * 3


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique(look, name):
    page, _ = look(name)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def cells(page, table, column):
    """Texts of a column of the first table of a section, sorting marks left out."""
    rows = f"[...document.querySelector({json.dumps(table)}).rows].map(row => row.cells[{column}].textContent.trim())"
    return page.evaluate(rows)


def test_numbers_agree_between_card_and_table(look):
    page, _ = look("run")
    accuracy, privacy = (page.locator(".card").nth(number).inner_text() for number in (0, 1))
    own = cells(page, "#accuracy table", 1)
    assert own[0] == "fedmm"  # the product's column comes second
    assert own[-1] in accuracy.splitlines()
    table = "[aria-label^='gain over each baseline'] table"
    gain = cells(page, table, 1)
    assert gain[0] == "over noisy-popularity"  # what spends the same budget comes first
    sign, difference = gain[-1].split(" ", 1)
    compared = next(line for line in accuracy.splitlines() if "noisy-popularity" in line)
    assert compared.startswith(sign)
    assert difference in compared
    assert {"▲": "better than", "▼": "worse than", "◆": "not told from"}[sign] in compared
    colour = page.locator(".card").first.locator("p", has_text="noisy-popularity").get_attribute("class")
    assert colour == {"▲": "good", "▼": "bad", "◆": "open"}[sign]
    epsilons = cells(page, "[aria-label^='epsilon by view'] table", 2)[1:]
    assert f"another market: {max(epsilons, key=float)}" in privacy
    # which cell of the sweep ran first is open, and whether one was begun twice
    followed = page.locator("[aria-label^='with earlier runs'] table").count() == 1
    assert (re.search(r"; together with \d earlier runs?: ", privacy) is not None) == followed


def test_what_is_expected_is_not_red_and_what_is_missing_is_amber(look):
    page, _ = look("run")
    card = page.locator(".card").nth(1)
    assert "the server: 0, computational" in card.inner_text()
    assert re.search("∞, as expected", card.inner_text())
    assert card.locator(".bad").count() == 0
    standing = page.locator(".card").nth(3)
    for text in ("not audited", "self-signed"):
        assert "open" in standing.locator("p", has_text=text).get_attribute("class")
        assert text in page.locator(".glance").inner_text()


def test_a_run_without_a_budget_says_what_that_means(look):
    page, _ = look("plain")
    assert "∞" not in page.inner_text("body")
    assert "no guarantee" in page.locator(".card").nth(1).inner_text()
    assert "share and publish none of them" in page.locator("#privacy").inner_text()


def test_figures_use_the_width_and_lie_down_on_a_phone(look):
    shown = "[...document.querySelectorAll('#accuracy figure svg')].filter(e => e.checkVisibility())"
    size = f"{shown}.map(e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
    for width in WIDTHS:
        page, _ = look("run", width)
        ((wide, high),) = page.evaluate(size)
        assert wide == pytest.approx(page.evaluate("document.querySelector('main').getBoundingClientRect().width"))
        assert (high / wide > 0.7) == (width == 400)  # bars lie, and markets stand one below the other


def test_the_market_stays_where_a_table_scrolls(look):
    page, _ = look("run", 400)
    edge = "document.querySelector('#accuracy table tbody td').getBoundingClientRect().left"
    before = page.evaluate(edge)
    page.evaluate("document.querySelector('#accuracy .scroll').scrollLeft = 150")
    assert page.evaluate("document.querySelector('#accuracy .scroll').scrollLeft") > 50
    assert page.evaluate(edge) == before


def test_many_markets_are_summed_up(show):
    page = show("many")
    assert cells(page, "#accuracy table", 0) == ["model", "fedmm", "noisy-popularity", "popularity"]
    assert cells(page, "#accuracy table", 5)[0] == "fedmm better"
    assert page.locator("[aria-label^='test AUC by market']").is_hidden()
    page.locator("#accuracy summary").first.click()
    assert page.locator("[aria-label^='test AUC by market']").is_visible()


def test_the_figures_of_a_compliance_report_are_a_list(look):
    page, _ = look("compliance")
    card = page.locator(".card").nth(1)
    assert card.locator("li").count() == 5
    assert card.locator("li").first.inner_text() == "the server: ∞"  # no account says what others' servers read
    refused = page.locator(".card").first
    assert "no" in refused.inner_text().splitlines()
    assert refused.locator("p.bad").count() > 1  # the answer, and why


def test_what_was_read_is_on_the_page(pages, tmp_path):
    plain = next(pages["sweep"].parent.glob("cells/*epsilon-none*"))
    run = shutil.copytree(plain, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    reading = {"lines": 1018, "header": 1, "blank": 2, "bad": 7, "missing": 4, "merged": 8, "rows": 1000, "users": 80,
               "items": 40, "largest_user": 31, "first": "2020-01-01T00:00:00Z", "last": None}  # fmt: skip
    metrics["markets"]["m1"]["reading"] = reading
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = unverified_page(run)
    rows = page[page.index('aria-label="what was read') :].split("<tbody>")[1].split("</tbody>")[0].split("</tr>")
    (row,) = [row for row in rows if ">m1<" in row]
    shown = re.sub("<[^>]*>", " ", row).split()
    assert shown == "m1 1018 1000 7 4 8 1, 2 80 40 31 2020-01-01T00:00:00Z –".split()  # noqa: SIM905
