"""One id that is not one person: an item who is a user, and a user of several ids. What leaves with a person is more
than one user's rows, and the noise is for one user's.
"""

import ast
from pathlib import Path

import numpy as np
import pytest

from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.config import ContributionConfig, MarketFile
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.market import restrict
from privacy.mechanisms.randomness import NoiseSource
from tests.command_line import fedmm

ROOT = Path(__file__).parents[2]
FANS = 64
PEOPLE = [f"p{number:03}" for number in range(100)]
FOLLOWS = [(follower, "p000") for follower in PEOPLE[1 : FANS + 1]] + [
    (follower, PEOPLE[(at + step) % 100]) for at, follower in enumerate(PEOPLE) for step in (1, 2) if not 0 < at <= FANS
]
SIGMA = 4.0


def market_of(folder, rows, items):
    """The market of some rows, with its public list of items."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    (folder / "items.txt").write_text("".join(f"{item}\n" for item in items))
    file = MarketFile(path=folder / "rows.csv", user="user", item="item", catalogue=folder / "items.txt")
    return load_market(file, "m")


def moved(folder, rows, without, items):
    """How far noisy counts move, in L2 norm, when some rows leave under one noise; a user's sensitivity is 1."""
    counts = []
    for some in (rows, [row for row in rows if row not in without]):
        market = market_of(folder, some, items)
        market = restrict(market, market.catalogue)
        noise = NoiseSource.from_seed(3)
        counts.append(release_counts(market, np.arange(market.n_rows), ContributionConfig(), SIGMA, noise).values)
    return float(np.linalg.norm(counts[0] - counts[1]))


def told(folder, rows, items, words):
    return [line for line in market_of(folder, rows, items).advice if words in line]


def test_a_person_who_is_an_item_too_takes_the_rows_of_others_along(tmp_path):
    own = [row for row in FOLLOWS if row[0] == "p000"]
    about = [row for row in FOLLOWS if "p000" in row]
    assert moved(tmp_path, FOLLOWS, own, PEOPLE) <= 1.0  # what the guarantee is of
    assert moved(tmp_path, FOLLOWS, about, PEOPLE) > 0.99 * FANS  # the attack works
    (line,) = told(tmp_path, FOLLOWS, PEOPLE, "user ids too")
    in_rows = sum(item == "p000" for _, item in FOLLOWS)
    assert in_rows >= FANS
    assert f"as 'p000', in {in_rows} rows" in line


def test_the_same_rows_of_goods_say_nothing(tmp_path):
    goods = [(user, f"g{item}") for user, item in FOLLOWS]
    own = [row for row in goods if row[0] == "p000"]
    assert 0 < moved(tmp_path, goods, own, [f"g{item}" for item in PEOPLE]) <= 1.0
    assert not told(tmp_path, goods, [f"g{item}" for item in PEOPLE], "user ids")


def test_a_person_of_several_ids_takes_several_users_rows_along(tmp_path):
    names = ["x7", "X7", " x7", "x7 ", "x\u200b7", "\uff587"]
    goods = [(user, f"g{item}") for user, item in FOLLOWS]
    person = [(name, "gp005") for name in names]
    items = [f"g{item}" for item in PEOPLE]
    assert moved(tmp_path, goods + person, person[:1], items) <= 1.0
    assert moved(tmp_path, goods + person, person, items) > 0.99 * len(names)  # the attack works
    (line,) = told(tmp_path, goods + person, items, "user ids that are another")
    assert "up to 6 alike" in line


# -- who is told -------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    """Files of three markets whose items are people, each with its public list."""
    for name in "abc":
        rows = [(f"{name}{n % 60}", f"{name}{(n % 60 + n // 60 + 1) % 60}") for n in range(60 * 9)]
        (tmp_path / f"{name}.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
        (tmp_path / f"{name}.items.txt").write_text("".join(f"{name}{n}\n" for n in range(60)))
    return tmp_path


def test_the_first_look_says_it_and_the_configuration_does_not(people, capsys):
    out = people / "my.yaml"
    status, printed, err = fedmm(capsys, "init", *sorted(people.iterdir()), "--out", out)
    assert (status, err) == (0, "")
    assert " ".join(printed.split()).count("look: item ids that are user ids too: 60 of 60, as") == 3
    assert "user ids too" not in out.read_text()
    for command in ("check", "info"):
        status, printed, err = fedmm(capsys, "data", command, out)
        assert (status, err) == (0, "")
        assert " ".join(printed.split()).count("look: item ids that are user ids too: 60 of 60, as") == 3


def readers_of(name):
    """Modules in which an attribute or a function of this name is read."""
    found = set()
    for package in ("attacks", "experiments", "fedmm_secure", "privacy"):
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if name not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                read = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
                if read == name and isinstance(node.ctx, ast.Load):
                    found.add(path.relative_to(ROOT).as_posix())
    return found


def test_advice_is_printed_for_the_owner_and_handed_to_nothing_that_writes():
    """It follows from private rows, and names ids: a file that may be handed out has no room for it."""
    assert readers_of("advice") == {
        "experiments/commands/data.py",
        "experiments/runs/markets.py",
        "privacy/accounting/account_file.py",  # a parameter of that name: what to do about a file
    }
    assert readers_of("reading_lines") == {f"experiments/commands/{name}.py" for name in ("data", "init", "join")}
