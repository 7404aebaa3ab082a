"""What is handed out of a run confirms no guess at private rows, and is enough to verify it."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.reports import codebook, run_figures
from experiments.verification import examine_run
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.private_record import commitment, read_salt
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import read_ledger
from privacy.aggregation.identities import read_card
from tests.conftest import tiny
from tests.handing_out import CLASSES, PRIVATE, class_of, files, hand_out, page_travels, table
from tests.people import of_people
from tests.released import PRIVATE as PRIVATE_FACTORS
from tests.released import release_configuration, run_release, signers_card

HANDED_OUT = ("ledger", "transcript", "metrics.json", "environment.json", "config.yaml")
KEPT = ("codes", "predictions", "private", "state")


def handed_out(run) -> bytes:
    files = [
        path for name in HANDED_OUT for path in ((run / name).rglob("*") if (run / name).is_dir() else [run / name])
    ]
    return b"\n".join(path.read_bytes() for path in files if path.is_file())


def confirms(text: bytes, guess: bytes) -> bool:
    """Whether a hash that anyone can compute of a guess stands in a text."""
    names = ("md5", "sha1", "sha256", "sha384", "sha512", "blake2b", "sha3_256")
    return any(hashlib.new(name, guess).hexdigest().encode() in text for name in names)


def private_bytes(run) -> list[bytes]:
    """What an outsider would have to guess: files of private rows, and the columns that are computed from rows."""
    found = [path.read_bytes() for name in ("codes", "predictions") for path in (run / name).iterdir()]
    for prepared in prepare_markets(release_configuration(user_codes_epsilon=2.0).data).values():
        market, test = prepared.whole.market, prepared.whole.test
        found += [b"".join(test.columns()), *test.columns(), np.stack([market.user, market.item]).tobytes()]
    return found


def test_no_hash_in_it_is_one_of_private_rows(released_run):
    text = handed_out(released_run)
    guesses = private_bytes(released_run)
    assert len(guesses) > 6
    assert not any(confirms(text, guess) for guess in guesses)
    assert confirms(text, (released_run / "metrics.json").read_bytes())  # what is handed out anyway is named plainly


def test_a_plain_hash_of_user_codes_would_confirm_a_guess(released_run):
    """The last line as it was: the attack, and that the key of the commitments is what ends it."""
    path = released_run / "codes" / "m0.parquet"
    guess, wrong = path.read_bytes(), (released_run / "codes" / "m1.parquet").read_bytes()
    as_it_was = f'{{"codes/m0.parquet": "{hashlib.sha256(guess).hexdigest()}"}}'.encode()
    assert confirms(as_it_was, guess)
    assert not confirms(as_it_was, wrong)
    named = read_ledger(released_run / "ledger" / "m0.jsonl").closing["private"]
    own = {name for name in named if name.startswith("private/m0/")}
    assert set(named) - own == {"codes/m0.parquet", "predictions/m0.parquet"}
    updates = {f"private/m0/quantizer/0/{round:04d}-own-update-m0.bin" for round in range(3)}
    assert own == {*updates, "private/m0/user-codes/0/0000-publication-m0.bin", "private/m0/index.jsonl"}
    salt = read_salt(released_run, "m0")
    assert named["codes/m0.parquet"] == commitment(salt, path, released_run)
    assert named["codes/m0.parquet"] != commitment(bytes(32), path, released_run)
    assert salt not in handed_out(released_run)
    assert salt != read_salt(released_run, "m1")
    assert RunDirectory(released_run).private_key("m0").stat().st_mode & 0o077 == 0


def test_a_run_verifies_without_what_its_owner_keeps(released_run, released_copy):
    for name in KEPT:
        shutil.rmtree(released_copy / name)
    found = examine_run(released_copy, signer=read_card(signers_card(released_run)))
    assert found.findings == []
    assert [note.split(": ")[0] for note in found.notes] == ["m0", "m1", "m2"]
    assert all("not shown" in note and "codes/m" in note and "predictions/m" in note for note in found.notes)


def test_a_private_file_that_is_shown_with_the_key_is_the_one_that_was_signed_for(released_copy):
    path = released_copy / "predictions" / "m0.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    assert [finding.what for finding in examine_run(released_copy).findings] == [
        "predictions/m0.parquet is not the one that was signed for"
    ]


def test_a_finished_run_is_not_taken_for_one_of_other_rows_or_another_configuration(released_run):
    account = {"user_codes_epsilon": 2.0, "account": str(released_run.parent / "privacy.account")}
    generated = release_configuration(**account)
    config, markets = of_people(generated), prepare_markets(generated.data)
    before = sorted(path for path in released_run.parent.rglob("*"))
    assert run_pipeline(config, markets, released_run)["macro"]["auc"] is not None
    with pytest.raises(RunDirectoryError, match="finished run of another configuration; choose another directory"):
        run_pipeline(of_people(release_configuration(epsilon=0.5, **account)), markets, released_run)
    other = generated.data.synthetic.model_copy(update={"seed": 1})
    with pytest.raises(RunDirectoryError, match="finished run of other rows of market m0"):
        run_pipeline(config, prepare_markets(generated.data.model_copy(update={"synthetic": other})), released_run)
    with pytest.raises(RunDirectoryError, match="finished run of other markets"):
        run_pipeline(config, {name: markets[name] for name in ("m0", "m1")}, released_run)
    assert sorted(path for path in released_run.parent.rglob("*")) == before


@pytest.fixture(scope="module")
def federation_run(tmp_path_factory):
    """What leaves a market is private, its own CTR model is not."""
    config = tiny(
        privacy={"epsilon": 8.0, "protect": "federation"},
        embedding=PRIVATE_FACTORS,
        federation={"rounds": 1},
        ctr={"baselines": ["popularity"], "tune": True, "max_epochs": 1},
    )
    directory = tmp_path_factory.mktemp("federation") / "run"
    run_release(directory, config)
    return directory


def test_every_file_of_a_run_is_in_a_class(released_run, federation_run):
    for run, released in ((released_run, True), (federation_run, False)):
        classes = {name: class_of(name, released=released) for name in files(run)}
        assert [name for name, found in classes.items() if found is None] == []
        assert "own-update" not in "".join(name for name, found in classes.items() if found != PRIVATE)
        assert "user-codes/0/0000-publication" not in "".join(n for n, found in classes.items() if found != PRIVATE)
    assert any("tuned" in name for name in files(federation_run))
    assert not any("publication" in name for name in files(federation_run))  # its release view, unbounded, is not there


def test_a_file_of_a_new_kind_is_in_no_class():
    for name in ("transcript/quantizer/0/0000-own-update-m0.bin", "transcript/user-codes/0/0000-publication-m0.bin"):
        assert class_of(name, released=True) is None  # where they lay
    assert class_of("transcript/quantizer/0/0000-gradient-m0.bin", released=True) is None
    assert class_of("models/m0/ctr-0.pt", released=False) == PRIVATE
    assert len({found.name for found in CLASSES}) == len(CLASSES)


def test_what_may_be_handed_out_is_enough_to_verify(released_run, federation_run, tmp_path):
    for run, released in ((released_run, True), (federation_run, False)):
        found = examine_run(hand_out(run, tmp_path / str(released), released=released))
        assert found.findings == []
        shown = {note.split(": ")[0]: note for note in found.notes}
        assert all("not shown" in shown[market] and f"private/{market}/" in shown[market] for market in ("m0", "m1"))


def test_a_page_is_drawn_from_what_is_handed_out_alone(released_run, federation_run, tmp_path):
    for run, released in ((released_run, True), (federation_run, False)):
        found = page_travels(run, tmp_path / str(released), released=released)
        assert found == ([], ["report.html is the page of the run"])


def test_a_page_that_draws_users_codes_would_not_verify(released_run, tmp_path):
    """The page as it was: exact shares of users on each code, from files that no stranger has."""

    def as_it_was(directory, config, metrics):
        return codebook._owners(directory, config, list(metrics["markets"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "codebook_of", as_it_was)
        found, _ = page_travels(released_run, tmp_path, released=True)
    assert len(found) == 1


def test_a_page_without_a_budget_is_its_owners(tmp_path):
    config = tiny(federation={"rounds": 1}, ctr={"baselines": ["popularity"], "max_epochs": 1})
    run_release(tmp_path / "run", config)
    assert page_travels(tmp_path / "run", tmp_path, released=True) == (
        [],
        ["report.html is not compared: of a run without a budget it shows what its owner keeps"],
    )


def test_the_documentation_has_the_classes():
    text = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    assert table() in text
