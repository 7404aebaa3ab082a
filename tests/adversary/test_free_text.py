"""Rows as text that verification takes for a signature, a hash or a name: each place is open to a plain reader."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.verification import examine_run
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.closing import closing_text
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from privacy.accounting.ledger import CHARGE
from privacy.aggregation.identities import Identity
from tests.conftest import tiny
from tests.forgery import Forgery
from tests.manipulations import ROWS

BLANKS = "".join(" \t"[byte >> bit & 1] for byte in ROWS[:200] for bit in range(8))


def checks(run):
    return {name for name, findings in examine_run(run).checks.items() if findings}


def handed_out(run):
    """Without what a market keeps to itself, as a run is handed on."""
    for name in ("private", "codes", "predictions", "state"):
        shutil.rmtree(run / name)
    return run


def spread(text):
    """The same bytes to ``bytes.fromhex``, which skips blanks."""
    found = f"{text[:2]}{BLANKS}{text[2:]}"
    assert bytes.fromhex(found) == bytes.fromhex(text)  # a plain reader sees nothing
    return found


class Closing(Forgery):
    """Changes the last line of m0's ledger, before it is signed or after."""

    before = after = staticmethod(lambda statement: None)

    def _statement(self, market, lines, head, config):
        found = super()._statement(market, lines, head, config)
        if market != "m0":
            return found
        statement = {name: value for name, value in found.items() if name not in ("card", "signature")}
        self.before(statement)
        signer = Identity.load(self.directory / "state" / "keys" / market)
        signature = signer.sign(closing_text(market, self.opening(market)["run"], head, statement)).hex()
        found = {**statement, "card": asdict(signer.card), "signature": signature}
        self.after(found)
        return found


@pytest.mark.parametrize("capitals", [False, True])
def test_blanks_and_capitals_in_the_signature_of_a_last_line(released_copy, capitals):
    run = Closing(released_copy)
    write = str.upper if capitals else spread
    run.after = lambda found: found.update(signature=write(found["signature"]))
    run.finish(owner=True)
    assert "closing line" in checks(released_copy)


def test_blanks_in_the_card_of_who_signed(released_copy):
    run = Closing(released_copy)
    run.after = lambda found: found["card"].update(proof=spread(found["card"]["proof"]))
    run.finish(owner=True)
    assert "closing line" in checks(released_copy)


def test_blanks_in_the_signature_of_a_bundle(released_copy):
    """Nothing names the file: whoever hands the directory on can do it."""
    run = Forgery(released_copy)
    run.json("transcript/federation.json", lambda bundle: bundle.update(signature=spread(bundle["signature"])))
    run.finish(owner=False)
    assert checks(released_copy)


def test_names_of_files_that_nobody_has_to_show(released_copy):
    run = Closing(released_copy)
    run.before = lambda found: found["private"].update({f"private/m0/{ROWS[:1000].hex()}": "0" * 64})
    run.finish(owner=True)
    assert checks(handed_out(released_copy)) == {"closing line"}


def test_text_for_the_hash_of_a_key(released_copy):
    run = Forgery(released_copy)
    next(line for line in run.ledgers["m0"] if line.kind == CHARGE).body["key"] = ROWS.hex()
    run.finish(owner=True)
    assert checks(released_copy)


def test_multipliers_of_runs_that_never_were(released_copy):
    """A note of earlier runs may be of any size: 200 Gaussians of almost no ε are 800 bytes of rows."""
    run = Forgery(released_copy)
    chunks = [int.from_bytes(ROWS[start : start + 4], "big") for start in range(0, 800, 4)]
    events = [{"kind": "gaussian", "noise_multiplier": 1e6 + chunk / 2**18} for chunk in chunks]
    for entry in run.entries("m0"):
        if entry["stage"] == "earlier-runs":
            entry["view_events"] = {view: {"kind": "composed", "events": events} for view in entry["view_events"]}
            entry["remark"] = "1"
    run.state_again()
    run.finish(owner=True)
    assert checks(released_copy)


def test_the_id_of_a_run(tmp_path):
    settings, run = tiny(), tmp_path / "run"
    run_directory.create(run, settings)
    (run / "state").mkdir(exist_ok=True)
    (run / "state" / "run-id").write_text(ROWS[:500].hex())
    run_pipeline(settings, prepare_markets(settings.data), run)
    assert checks(run)


def test_no_other_reader_takes_blanks_between_digits():
    root = Path(__file__).parents[2]
    modules = (
        path for name in ("privacy", "fedmm_secure", "attacks", "experiments") for path in root.glob(f"{name}/**/*.py")
    )
    found = [path.name for path in modules if "bytes.fromhex" in path.read_text(encoding="utf-8").replace("``", "")]
    assert found == ["hexadecimal.py"]
