"""What a market's operator should look at in rows that could be read, a line each.

These are guesses from many rows together, so they change nothing: no row is read otherwise or left out for them. They
name single users' rows, and so stay with the operator.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import Market, Rows

LARGE_OUTSIDE = 0.1  # share of rows outside the catalogue
# controls, formats (zero-width spaces, byte order marks), fillers, what stood for bytes that were no text, blanks
# that do not break a line
_UNSEEN = r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\x{034F}\x{115F}\x{1160}\x{3164}\x{FFA0}\x{FFFD}\x{A0}\x{202F}]"
_ROUNDED = r"^[0-9]([.,][0-9]+)?E\+[0-9]+$"
# ways to write one id otherwise, each undone after those before it
_SPELLINGS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "its Unicode form": lambda ids: pc.utf8_normalize(ids, "NFKC"),
    "blanks around it or characters that are not seen": lambda ids: pc.utf8_trim_whitespace(
        pc.replace_substring_regex(ids, _UNSEEN, "")
    ),
    "case": lambda ids: pc.utf8_lower(pc.utf8_upper(ids)),  # both: some letters have two small ones
    "zeros before a number, or .0 after it": lambda ids: pc.replace_substring_regex(
        ids, r"^\+?0*([0-9]+)(\.0+)?$", r"\1"
    ),
}
# Share of item ids or user ids, whichever are fewer, or of rows. A few numbers coincide wherever the ranges of two
# sequences meet; where items are people, many users are items, many items are users, or a few of them have many rows.
# Ids that are no numbers seldom coincide by accident: any that do are told.
LARGE_OVERLAP = 0.01


def advice_on_ids(rows: Rows, large_share: float) -> Iterator[str]:
    """On ids that are likely none, or not what they seem."""
    n = len(rows.user)
    for what, index, ids in (("user", rows.user, rows.user_ids), ("item", rows.item, rows.item_ids)):
        counts = np.bincount(index)
        for large in np.flatnonzero(counts > large_share * n):
            share = f"{counts[large]} of {n} rows ({100 * counts[large] / n:.0f} %)"
            yield f"{what} {str(ids[large])[:100]!r} holds {share}; if this is no {what}, add it to data.missing"
        blanks = sum(str(identifier) != str(identifier).strip() for identifier in ids.tolist())
        if blanks:
            yield f"{blanks} {what} ids start or end with a blank, which is part of them"
        texts = pa.array(ids, pa.large_string())
        yield from _matching(texts, what, _UNSEEN, "hold characters that are not seen, which are part of them")
        yield from _matching(texts, what, _ROUNDED, "are numbers as a spreadsheet rounds them, several ids in one")


def advice_on_people(rows: Rows) -> Iterator[str]:
    """On ids that make the guarantee of one user no guarantee of one person: of who has several, or is an item too.

    Ids are compared as people read them, in time linear in their number.
    """
    users, items = (_spelled(pa.array(ids, pa.large_string())) for ids in (rows.user_ids, rows.item_ids))
    yield from _several_ids(rows.user_ids, users)
    yield from _users_as_items(rows, users[-1], items[-1])


def advice_on_lone_rows(rows: Rows) -> Iterator[str]:
    """On users of one row, of an item that nobody else has: a total, a comment, the last line of an export."""
    users, items = np.bincount(rows.user), np.bincount(rows.item)
    lone = np.flatnonzero((users[rows.user] == 1) & (items[rows.item] == 1))
    if not len(lone):
        return
    shape = _shapes(rows.user_ids)
    oddest = lone[np.argmin(np.bincount(shape)[shape[rows.user[lone]]])]
    user, item = (str(ids[at[oddest]])[:100] for ids, at in ((rows.user_ids, rows.user), (rows.item_ids, rows.item)))
    have = "1 user has" if len(lone) == 1 else f"{len(lone)} users have"
    which = "" if len(lone) == 1 else ", least like the others"
    yield f"{have} one row, of an item that nobody else has{which}: user {user!a}, item {item!a}; is that line a row?"


def advice_on_catalogue(market: Market, catalogue: Catalogue) -> Iterator[str]:
    """On many rows of items that the catalogue does not have, and what would find them there."""
    counts = np.bincount(market.item, minlength=len(market.item_ids))
    outside = np.flatnonzero(catalogue.index(market.item_ids) < 0)
    n, lost = market.n_rows, int(counts[outside].sum())
    if lost <= LARGE_OUTSIDE * n:
        return
    known = {_plain(item): item for item in map(str, catalogue.items)}
    alike = [(str(market.item_ids[at]), int(counts[at])) for at in outside if _plain(str(market.item_ids[at])) in known]
    text = f"{lost} of {n} rows ({100 * lost / n:.0f} %) name items that the catalogue does not have"
    if alike:
        found = alike[0][0]
        text += (
            f"; {sum(count for _, count in alike)} of them but for case, blanks or characters that are not seen: "
            f"{found[:100]!a} is {known[_plain(found)][:100]!a} there; write ids alike in both files"
        )
    else:
        text += f", as {str(market.item_ids[outside[0]])[:100]!a}; is it another market's, or an older one?"
    yield text


def _spelled(ids: pa.Array) -> list[pa.Array]:
    """Ids ``(n,)`` as they are, and without one more of the ways to write them otherwise at a time."""
    found = [ids]
    for undo in _SPELLINGS.values():
        found.append(undo(found[-1]))
    return found


def _several_ids(user_ids: NDArray[np.object_], spelled: list[pa.Array]) -> Iterator[str]:
    """On user ids that are one to who reads them.

    Random ids that case tells apart coincide without it where they are short: of a million in base64 some 250 with 6
    characters, and none with 11, as 64 bits have.
    """
    left = [len(ids.unique()) for ids in spelled]
    ways = [f"{way} ({merged})" for way, merged in zip(_SPELLINGS, -np.diff(left), strict=True) if merged]
    if not ways:
        return
    person = spelled[-1].dictionary_encode().indices.to_numpy()
    alike = np.bincount(person)
    one, other = (str(identifier)[:100] for identifier in user_ids[person == alike.argmax()][:2])
    yield (
        f"user ids that are another but for {', '.join(ways)}: as {one!a} and {other!a}, up to {alike.max()} alike; "
        "if they are one person's, the guarantee takes that person for as many users: write one person's ids alike"
    )


def _users_as_items(rows: Rows, users: pa.Array, items: pa.Array) -> Iterator[str]:
    """On items that may be users, whom the rows of others are about; both ids as people read them."""
    both = pc.is_in(items, value_set=users)
    found = np.flatnonzero(both.to_numpy(zero_copy_only=False))
    if not len(found):
        return
    counts = np.bincount(rows.item)
    numbers = pc.all(pc.match_substring_regex(items.filter(both), "^[0-9]+$")).as_py()
    share = max(len(found) / min(len(users), len(items)), counts[found].sum() / len(rows.item))
    if numbers and share < LARGE_OVERLAP:
        return
    most = found[counts[found].argmax()]
    yield (
        f"item ids that are user ids too: {len(found)} of {len(items)}, as {str(rows.item_ids[most])[:100]!a}, in "
        f"{counts[most]} rows; if such an item is that user, others' rows about a user are outside that user's "
        "guarantee; if they coincide by accident, as numbers from 1 do, a prefix for one of the two tells them apart"
    )


def _matching(texts: pa.Array, what: str, pattern: str, are: str) -> Iterator[str]:
    found = texts.filter(pc.match_substring_regex(texts, pattern))
    if len(found):
        yield f"{len(found)} {what} id{'s' * (len(found) != 1)} {are}: {found[0].as_py()[:100]!a}"


def _shapes(ids: NDArray[np.object_]) -> NDArray[np.int64]:
    """The form of each id, ``(n,)``: runs of letters as one letter, of digits as one digit."""
    texts = pc.replace_substring_regex(pa.array(ids, pa.large_string()), r"\p{L}+", "a")
    texts = pc.replace_substring_regex(texts, r"\p{N}+", "0")
    return np.asarray(pd.factorize(texts.to_numpy(zero_copy_only=False))[0], dtype=np.int64)


def _plain(identifier: str) -> str:
    """An id without what people do not look at."""
    seen = (
        char for char in unicodedata.normalize("NFKC", identifier) if unicodedata.category(char)[0] not in ("C", "Z")
    )
    return "".join(seen).casefold()
