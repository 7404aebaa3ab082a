"""Rows as text that verification takes for a signature, a hash or a name: each place is open to a plain reader."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments.verification import closing, examine_run
from experiments.verification.closing import private_digests
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.canaries import CANARIES, RunCanaries, opened_nonce
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


def test_names_of_files_that_this_run_does_not_keep(released_copy, monkeypatch):
    """Hashes of what stays in the market say anything: each further name had room for 32 bytes."""
    others = "counts/0000-own-update", "item-codes/0/0000-publication", "quantizer/0/0001-publication"
    names = [f"private/m0/{name}-m0.bin" for name in others] + ["private/m0/tuned-fedmm.json", "models/m0/own-0.pt"]
    run = Closing(released_copy)
    run.before = lambda found: found["private"].update({name: ROWS[:32].hex() for name in names})
    run.finish(owner=True)
    handed_out(released_copy)
    assert checks(released_copy) == {"closing line"}
    monkeypatch.setattr(closing, "_kept_names", lambda evidence, market: set(private_digests(evidence.ledgers[market])))
    assert checks(released_copy) == set()


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


def test_rows_as_the_nonce_of_canaries():
    """The first line commits to a hash of anything, and the last line opened it: a run that was made with it verified.

    All coins follow from a key that is derived of it, whatever its length.
    """
    opening, closing = {CANARIES: hashlib.sha256(ROWS).hexdigest()}, {CANARIES: ROWS.hex()}
    assert hashlib.sha256(bytes.fromhex(closing[CANARIES])).hexdigest() == opening[CANARIES]  # as it was opened
    assert RunCanaries.of(tiny(), "m0", "run", ROWS).key
    assert opened_nonce(opening, closing) is None
    nonce = ROWS[:32]
    assert opened_nonce({CANARIES: hashlib.sha256(nonce).hexdigest()}, {CANARIES: nonce.hex()}) == nonce


def test_the_id_of_a_run(tmp_path):
    settings, run = tiny(), tmp_path / "run"
    run_directory.create(run, settings)
    (run / "state").mkdir(exist_ok=True)
    (run / "state" / "run-id").write_text(ROWS[:500].hex())
    run_pipeline(settings, prepare_markets(settings.data), run)
    assert checks(run)


OWN_WORDS = {  # texts of a configuration that no rule spells, as docs/adversary.md calls them
    ".audit.replay.name": "names of markets and of the auditor",
    ".audit.users.<key>": "names of markets and of the auditor",  # held to those of data.markets
    ".data.markets.<key>": "names of markets and of the auditor",
    ".data.markets.*.path": "paths of files",
    ".data.markets.*.catalogue": "paths of files",
    ".data.root": "paths of files",
    ".data.shared_catalogue.files[]": "paths of files",
    ".privacy.account": "of the account",
    ".data.markets.*.user": "columns",
    ".data.markets.*.item": "columns",
    ".data.markets.*.rating": "columns",
    ".data.markets.*.time": "columns",
    ".data.markets.*.separator": "separators",
    ".data.missing[]": "spellings of what is missing",
}
SPELLED = {  # by a validator, which the schema does not tell
    ".audit.replay.proof",
    ".audit.replay.sealing",
    ".audit.replay.signing",
    ".privacy.contribution.reference_date",
}


def texts_of(schema, known, at=""):
    """Paths of texts, and of names, that a configuration's schema leaves open."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rsplit("/", 1)[-1]]
    for part in ("anyOf", "allOf", "oneOf", "prefixItems"):
        for one in schema.get(part, ()):
            yield from texts_of(one, known, at)
    for name, one in schema.get("properties", {}).items():
        yield from texts_of(one, known, f"{at}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        yield f"{at}.<key>"
        yield from texts_of(schema["additionalProperties"], known, f"{at}.*")
    if isinstance(schema.get("items"), dict):
        yield from texts_of(schema["items"], known, f"{at}[]")
    if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "pattern"}:
        yield at


def test_texts_of_a_configuration_that_are_the_owners_are_named():
    schema = Config.model_json_schema()
    assert set(texts_of(schema, schema["$defs"])) == OWN_WORDS.keys() | SPELLED
    document = (Path(__file__).parents[2] / "docs" / "adversary.md").read_text(encoding="utf-8")
    said = document[document.index("the owner's own words") :]
    assert all(words in said for words in OWN_WORDS.values())


def test_no_other_reader_takes_blanks_between_digits():
    root = Path(__file__).parents[2]
    modules = (
        path for name in ("privacy", "fedmm_secure", "attacks", "experiments") for path in root.glob(f"{name}/**/*.py")
    )
    found = [path.name for path in modules if "bytes.fromhex" in path.read_text(encoding="utf-8").replace("``", "")]
    assert found == ["hexadecimal.py"]
