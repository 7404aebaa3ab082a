"""One user's rows that change how the rows of others are read.

Every sensitivity is of one user's rows among others that stay. A reader that lets a quotation mark span lines, takes
the form of times from most rows, or the number of fields from the first, moves the rows of others too: the exact sums
of two neighbouring files then differ by far more than the sensitivity 1 that noise is drawn for.
"""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmm_secure.collaborative.dp_svd import contributions
from fedmm_secure.config import ContributionConfig, MarketFile
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.market import build_market
from fedmm_secure.errors import DataError
from privacy.mechanisms.counts import integer_rows
from privacy.mechanisms.grid import Grid

HEADER = "user,item,rating,time\n"
ITEMS = [f"i{k}" for k in range(20)]
RNG = np.random.default_rng(0)
OTHERS = [f"u{user:03d},{ITEMS[RNG.integers(20)]},3,2020-01-{1 + day:02d}" for user in range(100) for day in range(4)]
NUMERIC = [f"n{user:03d},{ITEMS[(user + day) % 20]},3,{1_600_000_000 + day}" for user in range(15) for day in range(4)]
FILE = [*OTHERS, *NUMERIC]

ATTACKS = {  # where in the file, and what
    "quotation mark": [(40, 'zz,"i1,3,2020-01-05')],
    "two quotation marks": [(40, 'zz,"i1,3,2020-01-05'), (380, 'zz,i2",3,2020-01-06')],
    "most times are numbers": [(460, f"zz,{ITEMS[k % 20]}x{k},3,{1_600_000_000 + k}") for k in range(600)],
    "more fields": [(0, "zz,i1,3,2020-01-05,more")],
    "a year that nanoseconds do not reach": [(7, "zz,i1,3,2500-01-01")],
    "no text": [(7, "zz,\0\r,3,2020-01-01")],
    "nothing": [(7, ",,,")],
}


def careful(path, text, **more):
    path.write_text(text, newline="")
    file = MarketFile(path=path, **{"user": "user", "item": "item", "rating": "rating", "time": "time", **more})
    return load_market(file, "m", on_bad_rows="skip")


def by_position(path, text):
    """The same without a header, so that the first row is one user's."""
    return careful(path, text.removeprefix(HEADER), user=0, item=1, rating=2, time=3, header=False)


def by_majority(path, text):
    """A reader as many are: quotes span lines, the first line says how many fields, and most rows what times are."""
    rows = [row for row in csv.reader(io.StringIO(text.removeprefix(HEADER))) if row]
    rows = [row for row in rows if len(row) == len(rows[0])]
    times = pd.Series([row[3] for row in rows], dtype=object)
    numbers = pd.to_numeric(times, errors="coerce")
    if numbers.notna().mean() > 0.5:
        ok, value = numbers.notna(), numbers.fillna(0).astype("int64")
    else:
        found = pd.to_datetime(times, errors="coerce", format="ISO8601", utc=True)
        ok, value = found.notna(), found.dt.as_unit("ns").astype("int64")
    kept = [(row[0], row[1], when) for row, fine, when in zip(rows, ok, value, strict=True) if fine]
    users, items, when = (list(column) for column in zip(*kept, strict=True))
    return build_market("m", users, items, None, np.asarray(when, dtype=np.int64))


def moved(read, path, attack):
    """L2 norm of what one user's rows change in the sums of the others' bounded contributions."""
    sums = []
    with_user = list(FILE)
    for at, row in reversed(ATTACKS[attack]):
        with_user.insert(at, row)
    for lines in (FILE, with_user):
        market = read(path, HEADER + "\n".join(lines) + "\n")
        grid = Grid.of(1.0)
        exact = integer_rows(contributions(market, np.arange(market.n_rows), ContributionConfig()), grid)
        total = dict(zip(market.item_ids, np.asarray(exact.sum(axis=0)).ravel(), strict=True))
        sums.append(np.array([total.get(item, 0) for item in ITEMS]) * grid.step)
    return float(np.linalg.norm(sums[0] - sums[1]))


@pytest.mark.parametrize("read", [careful, by_position])
@pytest.mark.parametrize("attack", ATTACKS)
def test_one_users_rows_move_the_sums_by_no_more_than_their_own_norm(tmp_path, attack, read):
    assert moved(read, tmp_path / "m.csv", attack) <= 1.0 + 1e-9


@pytest.mark.parametrize("attack", ["quotation mark", "two quotation marks", "most times are numbers", "more fields"])
def test_on_a_reader_that_infers_from_the_rows_the_attacks_work(tmp_path, attack):
    if attack == "more fields":  # leaves nothing of the other users' rows
        with pytest.raises(DataError, match="only 1 user"):
            moved(by_majority, tmp_path / "m.csv", attack)
    else:
        assert moved(by_majority, tmp_path / "m.csv", attack) > 5.0


def test_a_time_beyond_the_reach_stops_a_reader_that_converts_all_rows_together(tmp_path):
    with pytest.raises(pd.errors.OutOfBoundsDatetime):
        moved(by_majority, tmp_path / "m.csv", "a year that nanoseconds do not reach")


# -- any rows ----------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        '"',
        '""',
        ",",
        ",",
        ",",
        " ",
        "\t",
        "\r",
        "\0",
        ";",
        "u",
        "i1",
        "3",
        "nan",
        "NULL",
        "\\N",
        "2020-01-05",
        "2500-01-01",
        "é",
        "1600000000",
        "1600000000000",
        "2020-10-25T02:30:00+02:00",
        "9999-12-31",
        "1e400",
        "'",
        "\\",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
    ]
)
HOSTILE = st.lists(st.lists(PIECES, max_size=8).map(lambda parts: "zz" + "".join(parts)), max_size=8)


def rows_of(market, but):
    """Rows of all users but those whose id begins so."""
    rows = zip(market.user, market.item, market.rating, market.time, strict=True)
    named = [(str(market.user_ids[u]), str(market.item_ids[i]), float(r), int(t)) for u, i, r, t in rows]
    return [row for row in named if not row[0].startswith(but)]


FORMS = {
    "csv": {},
    "no header": {"user": 0, "item": 1, "rating": 2, "time": 3, "header": False},
    "quotes are characters": {"quoting": False},
    "numbers": {"time_unit": "s"},
}


def undisturbed(folder, first, second, at, form):
    lines = NUMERIC if form == "numbers" else OTHERS[:80]
    head = "" if form == "no header" else HEADER
    found = []
    for rows in ([], first, second):
        text = head + "\n".join([*lines[:at], *rows, *lines[at:]])
        found.append(rows_of(careful(folder / "m.csv", text, **FORMS[form]), "zz"))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 50


GIVEN = {"first": HOSTILE, "second": HOSTILE, "at": st.integers(0, 60), "form": st.sampled_from(sorted(FORMS))}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(**GIVEN)
def test_no_user_changes_what_is_read_of_others(tmp_path, first, second, at, form):
    undisturbed(tmp_path, first, second, at, form)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(**GIVEN)
def test_no_user_changes_what_is_read_of_others_in_very_many_files(tmp_path, first, second, at, form):
    undisturbed(tmp_path, first, second, at, form)
