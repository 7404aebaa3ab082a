"""Rows in a configuration whose values mean the same however they are spelled: numbers as texts, with blanks around."""

from collections.abc import Iterator

import pytest
import yaml

from experiments.verification import examine_run
from fedmm_secure.config import config_from_data
from tests.forgery import Forgery
from tests.manipulations import ROWS

BLANKS = 4000  # around one number; the parser takes texts of 10,000 characters


def checks(run):
    return {name for name, findings in examine_run(run).checks.items() if findings}


def rewritten(run, change) -> bytes:
    """The configuration with other spellings, as ``yaml.safe_dump`` writes those."""
    path = run / "config.yaml"
    before = yaml.safe_load(path.read_bytes())
    after = change(before)
    assert config_from_data(after, source="") == config_from_data(before, source="")  # a plain reader sees nothing
    path.write_bytes(yaml.safe_dump(after, sort_keys=False, allow_unicode=True).encode())
    forgery = Forgery(run)
    forgery.finish(owner=True)
    return path.read_bytes()


def as_it_was(data: bytes) -> bool:
    """What verification compared a configuration with: what its own values are written as."""
    return yaml.safe_dump(yaml.safe_load(data), sort_keys=False, allow_unicode=True).encode() == data


def with_blanks(content, bits: Iterator[str]):
    """Every number of a section as a text, with blanks before it that are the next bits."""
    return {
        name: f"{''.join(bit for _, bit in zip(range(BLANKS), bits, strict=False))}{value}"
        if type(value) in (int, float)
        else value
        for name, value in content.items()
    }


def test_rows_as_blanks_around_numbers(released_copy):
    wanted = [byte >> bit & 1 for byte in ROWS[:1000] for bit in range(8)]
    bits = iter(" \t"[bit] for bit in wanted)
    data = rewritten(released_copy, lambda found: {**found, "quantizer": with_blanks(found["quantizer"], bits)})
    kept = "".join(str(value) for value in yaml.safe_load(data)["quantizer"].values())
    assert [" \t".index(blank) for blank in kept if blank in " \t"] == wanted  # all of them are read off again
    assert as_it_was(data)
    assert checks(released_copy) == {"files"}


@pytest.mark.parametrize(
    "other",
    [
        lambda found: {**found, "workers": f"{found['workers']:0100}"},
        lambda found: {**found, "quantizer": dict(sorted(found["quantizer"].items()))},
        lambda found: {name: value for name, value in found.items() if name != "evaluation"},
    ],
    ids=["zeros before a number", "the order of keys", "what a default says"],
)
def test_what_else_is_read_in_two_ways(released_copy, other):
    assert as_it_was(rewritten(released_copy, other))
    assert checks(released_copy) == {"files"}


def test_what_other_code_wrote_is_said_not_to_be_checked(released_copy):
    """Earlier versions lacked sections, so their order and what they leave out cannot be known: a report stays open."""
    Forgery(released_copy).json("environment.json", lambda found: found.update(code="0" * 64))
    rewritten(released_copy, lambda found: dict(reversed(found.items())))
    examined = examine_run(released_copy)
    assert examined.findings == []
    assert [text for text in examined.unchecked if "other code wrote it" in text]
