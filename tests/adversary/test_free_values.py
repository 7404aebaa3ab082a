"""Every value of what a run hands out in JSON, changed one at a time by its owner, who signs again: which verify.

What verifies is room for a message. It is what docs/verification.md and docs/adversary.md say that nobody can check.
"""

import copy
import json
import re
import shutil

import pytest

from experiments.verification import examine_run
from privacy.accounting.ledger import CLOSE, OPEN
from tests.forgery import Forgery

FIGURE = r"(auc_gain_over_it\.(low|high)|logloss|gauc|ndcg10)"
OWN_WORD = [
    # exact figures of private rows, and numbers of them
    rf"metrics\.json markets\.m0(\.baselines\.[\w-]+)?\.{FIGURE}",
    r"metrics\.json markets\.m0\.(n_(pool|rows|test|test_positives|train)|pool_test_share|skipped_rows)",
    r"metrics\.json markets\.m0\.quantizer\.\w+",
    # random to a reader: a commitment under a key that stays in the market, hashes of keys
    r"metrics\.json markets\.m0\.candidates",
    r"charge [\w/-]+ key",
    # names of commit, code, machine and versions, and when the run began
    r"environment\.json (code|commit|created|python|machine\.\w+|packages\.[\w-]+)",
    # what earlier runs spent, which may never have been
    r"note earlier-runs entry\.(coordinates|remark|view_events\..+)",
    # the first line follows from other files, to which the owner has fitted it
    r"open  commitments\.(code|configuration|environment)",
]


def values(value, at=()):
    """Places of all values, of objects and lists too."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from values(one, (*at, key))


def changed(root, at):
    """A little: the last digit, one more empty field or element."""
    *before, last = (None, *at)
    parent = root
    for key in before[1:]:
        parent = parent[key]
    value = root if last is None else parent[last]
    match value:
        case dict():
            value["another"] = None
        case list():
            value.append(copy.deepcopy(value[-1]) if value else "another")
        case bool():
            parent[last] = not value
        case int():
            parent[last] = value + 1
        case float():
            parent[last] = value * (1 + 2**-50) or 1e-9
        case str() if any(map(str.isdecimal, value)):  # not the last: it may be what a form spells
            at = next(place for place, letter in enumerate(value) if letter.isdecimal())
            parent[last] = value[:at] + str((int(value[at]) + 1) % 10) + value[at + 1 :]
        case str():
            parent[last] = value[:-1] + "0"
        case None:
            parent[last] = 0.5


def of_files(run):
    for name in ("metrics.json", "environment.json"):
        for at in values(json.loads((run / name).read_text(encoding="utf-8"))):
            if not {"m1", "m2"} & set(at):
                yield name, at, lambda forgery, name=name, at=at: forgery.json(name, lambda root: changed(root, at))


def of_lines(run):
    """One line of each kind and stage."""
    seen = set()
    for number, line in enumerate(Forgery(run).ledgers["m0"]):
        name = f"{line.kind} {line.stage if line.kind != OPEN else ''}" if line.kind != CLOSE else ""
        if name and name not in seen:
            seen.add(name)
            for at in values(line.body):
                if at != ("charge",):  # a seal's, which is written anew
                    yield name, at, lambda forgery, n=number, at=at: changed(forgery.ledgers["m0"][n].body, at)


@pytest.mark.slow
@pytest.mark.parametrize("places", [of_files, of_lines])
def test_what_a_run_may_say_otherwise_is_what_is_said_to_be_the_owners_word(released_run, tmp_path, places):
    free, tried, run = set(), 0, tmp_path / "run"
    for name, at, change in places(released_run):
        shutil.copytree(released_run, run)
        forgery = Forgery(run)
        change(forgery)
        try:
            forgery.finish(owner=True)
            verified = not examine_run(run).findings
        except (KeyError, TypeError, ValueError):  # not even its owner could write it
            verified = False
        if verified:
            free.add(f"{name} {'.'.join(map(str, at))}")
        shutil.rmtree(run)
        tried += 1
    assert tried > 200
    stray = {place for place in free if not any(re.fullmatch(pattern, place) for pattern in OWN_WORD)}
    assert stray == set()
    assert len(free) >= 5  # what is free is found
