"""Advice on ids: of users who are several to the guarantee, or items too. Other advice is tested where it is read."""

import re
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.data.advice import advice_on_people
from fedmm_secure.data.market import Rows

ITEMS = [f"i{number}" for number in range(20)]
USERS = [f"u{number}" for number in range(20)]


def rows_of(pairs):
    """Rows as they are read: ids in the order of their code points."""
    users, items = (np.array(column, dtype=object) for column in zip(*pairs, strict=True))
    user_ids, user = np.unique(users, return_inverse=True)
    item_ids, item = np.unique(items, return_inverse=True)
    return Rows(user_ids, item_ids, user, item, None, None)


def advice(users=USERS, items=ITEMS):
    """What is said of rows in which these ids are, each as often as the other list's length makes it."""
    n = max(len(users), len(items))
    return list(advice_on_people(rows_of([(users[at % len(users)], items[at % len(items)]) for at in range(n)])))


# -- several ids of one person -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "way"),
    [
        ("X7", "x7", "case (1)"),
        ("A@example.org", "a@Example.org", "case (1)"),
        ("ΟΔΟΣ", "οδος", "case (1)"),
        ("x7", "x7 ", "blanks around it or characters that are not seen (1)"),
        ("x7", "\tx7", "blanks around it or characters that are not seen (1)"),
        ("x7", "x\u200b7", "blanks around it or characters that are not seen (1)"),
        ("x7", "\ufeffx7", "blanks around it or characters that are not seen (1)"),
        ("x7", "x7\u00a0", "blanks around it or characters that are not seen (1)"),
        ("jos\u00e9", "jose\u0301", "its Unicode form (1)"),
        ("x7", "\uff587", "its Unicode form (1)"),
        ("a b", "a\u00a0b", "its Unicode form (1)"),
        ("12", "0012", "zeros before a number, or .0 after it (1)"),
        ("12", "12.0", "zeros before a number, or .0 after it (1)"),
        ("0", "000", "zeros before a number, or .0 after it (1)"),
        (" X7", "x7", "case (1)"),  # after blanks are gone
    ],
)
def test_ids_that_are_one_to_who_reads_them_are_told(one, other, way):
    (line,) = advice([*USERS, one, other])
    first, second = sorted((one, other))
    assert line.startswith(f"user ids that are another but for {way}: as {first!a} and {second!a}, up to 2 alike; ")
    assert line.endswith("write one person's ids alike")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("AE5FIA4GOI5L7BQPSLLRMDF4UHQQ", "AE5FIA4GOI5L7BQPSLLRMDF4UHQA"),  # capitals alone, as Amazon's
        ("dQw4w9WgXcQ", "dQw4w9WgXcP"),  # base64
        ("00ff", "ff00"),
        ("anna1", "anna01"),  # names that people chose
        ("1 23", "12 3"),
        ("12", "12.5"),
        ("12", "12,000"),
        ("12", "-12"),
        ("1", "10"),
        ("i\u0307x", "ix"),
    ],
)
def test_ids_of_several_people_are_not(one, other):
    assert advice([*USERS, one, other]) == []


def test_the_worst_of_many_is_shown():
    (line,) = advice([*USERS, "B", "b", "x7", "X7", " x7", "7", "07"])
    assert line.startswith(
        "user ids that are another but for blanks around it or characters that are not seen (1), case (2), zeros "
        "before a number, or .0 after it (1): as ' x7' and 'X7', up to 3 alike; "
    )


def read(identifier):
    """An id as people read it, a character at a time."""
    unseen = {"\u034f", "\u115f", "\u1160", "\u3164", "\ufffd"}
    text = "".join(
        char
        for char in unicodedata.normalize("NFKC", identifier)
        if unicodedata.category(char) not in ("Cc", "Cf", "Co", "Zl", "Zp") and char not in unseen
    )
    text = text.strip().casefold()
    number = re.fullmatch(r"\+?([0-9]+)(\.0+)?", text)
    return str(int(number[1])) if number else text


PIECES = ["A", "a", "0", "7", ".0", " ", "\u00a0", "\u200b", "é", "e\u0301", "É", "\uff21", "σ", "ς", "Σ", "-", "+"]


@given(st.sets(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), min_size=2, max_size=30))
@settings(max_examples=60)
def test_as_many_are_told_as_a_slow_reader_finds(users):
    ids = sorted(users)
    told = [line for line in advice(ids) if line.startswith("user ids")]
    counts = [int(count) for count in re.findall(r"\((\d+)\)", "".join(told).split(": as ")[0])]
    assert sum(counts) == len(ids) - len(set(map(read, ids)))


def test_many_ids_are_compared_in_the_time_that_reading_them_takes():
    """Two hundred thousand take .2 s; of pairs there are 2 · 10^10."""
    users = [f"{number:x}" for number in range(2**20, 2**20 + 100_000)]
    began = time.process_time()
    (line,) = advice([*users, *(f"{user} " for user in users)])
    assert time.process_time() - began < 5
    assert "not seen (100000)" in line


# -- items that are users ----------------------------------------------------------------------------------------------


def test_items_that_are_users_are_told_with_how_many_rows_name_one():
    (line,) = advice_on_people(rows_of([(f"p{n}", "p0") for n in range(1, 9)] + [("p0", "p1"), ("p1", "p2")]))
    assert line.startswith("item ids that are user ids too: 3 of 3, as 'p0', in 8 rows; if such an item is that user, ")
    assert "others' rows about a user are outside that user's guarantee" in line


def test_numbers_from_one_on_both_sides_are_told_to_coincide_by_accident_and_a_prefix_ends_it():
    users, items = [str(n) for n in range(1, 200)], [str(n) for n in range(1, 60)]
    (line,) = advice(users, items)
    assert line.startswith("item ids that are user ids too: 59 of 59, as ")
    assert "by accident, as numbers from 1 do, a prefix for one of the two tells them apart" in line
    assert advice(users, [f"i{item}" for item in items]) == []


@pytest.mark.parametrize(("overlap", "told"), [(9, False), (10, True)])
def test_a_few_numbers_coincide_wherever_their_ranges_meet(overlap, told):
    users, items = [str(n) for n in range(1000, 3000)], [str(n) for n in range(3000 - overlap, 4000 - overlap)]
    assert bool(advice(users, items)) is told  # of 1000 items, the fewer


def test_a_few_that_are_in_many_rows_are_told():
    users, items = [str(n) for n in range(1000, 1500)], [str(n) for n in range(1499, 1999)]
    pairs = list(zip(users, items, strict=True))
    assert list(advice_on_people(rows_of(pairs))) == []
    (line,) = advice_on_people(rows_of([*pairs, *((user, "1499") for user in users[1:6])]))
    assert "1 of 500, as '1499', in 6 rows" in line  # of 505


def test_ids_that_are_no_numbers_are_told_however_few_and_however_written():
    assert "1 of 21, as 'U7 '" in advice(items=[*ITEMS, "U7 "])[0]
    assert "20 of 20" in advice([str(n) for n in range(20)], [f"{n}.0" for n in range(20)])[0]
