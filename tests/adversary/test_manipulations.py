"""What verification finds of a run that somebody changed, outsider and owner told apart; and of a run without noise."""

import pytest

from attacks.auditing.faults import noise_on_spare_alone, noise_scaled
from experiments.compliance.evidence import examine
from experiments.verification import examine_run, verify_run
from privacy.aggregation.identities import read_card
from tests.forgery import Forgery
from tests.manipulations import BEYOND, MANIPULATIONS, NO_EVIDENCE, expected, table
from tests.released import release_configuration, run_release, signers_card


def test_the_run_itself_verifies_and_says_who_signed_it(released_run):
    card = read_card(signers_card(released_run))
    found = examine_run(released_run, signer=card)
    assert found.findings == []
    assert {signature.fingerprint for signature in found.signatures.values()} == {card.fingerprint}
    assert not any(signature.own for signature in found.signatures.values())
    assert found.notes == ("not read, so not vouched for: state/",)


@pytest.mark.parametrize("owner", [False, True], ids=["outsider", "owner"])
@pytest.mark.parametrize("name", MANIPULATIONS)
def test_a_manipulation_is_found_by_the_checks_that_the_table_names(released_run, released_copy, name, owner):
    forgery = Forgery(released_copy)
    MANIPULATIONS[name](forgery)
    forgery.finish(owner=owner)
    # whatever an owner has made consistent, he has not the key of who signed from outside
    signer = read_card(signers_card(released_run)) if owner else None
    found = examine_run(released_copy, signer=signer)
    others = [finding for finding in found.findings if ", not by auditor " not in finding.what]
    checks = {check for check, findings in found.checks.items() if any(finding in others for finding in findings)}
    if any(evidence.stated.standing != "counts" for evidence in examine(released_copy)):
        checks.add("signed evidence")
    assert checks == expected(name, owner=owner)
    assert all(finding.where.startswith(str(released_copy)) for finding in found.findings)
    assert all("\n" not in finding.what for finding in found.findings)
    if owner:
        assert name == "last lines dropped" or len(found.findings) >= len(others) + 2
        assert all(signature.own for signature in found.signatures.values())


def test_what_is_beyond_verification_is_what_the_text_names():
    rows = table().splitlines()[2:]
    beyond = [row.split(" | ")[0].removeprefix("| ") for row in rows if BEYOND in row]
    assert beyond == [
        "AUC of .99 in the metrics",
        "another commit",
        "another hash of the code",
        "another version of PyTorch",
        "the note of earlier runs with other figures",
    ]
    assert [row for row in rows if NO_EVIDENCE in row] == [f"| `state/` edited | {NO_EVIDENCE} | {NO_EVIDENCE} |"]


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_a_run_with_less_noise_than_its_ledger_states_does_not_verify(tmp_path, factor):
    """The product's own fault injector. Level of the meter: one false alarm in a thousand runs."""
    with noise_scaled(factor):
        run_release(tmp_path / "run", release_configuration())
    found = examine_run(tmp_path / "run").checks
    groups = ("counts", "embedding", "quantizer", "ctr")
    metered = [finding.where.split("market ")[1] for finding in found["noise meter"] if "market " in finding.where]
    assert set(metered) >= {f"{market}, {group}" for market in ("m0", "m1", "m2") for group in groups}
    other = {check for check, findings in found.items() if findings} - {"noise meter"}
    assert other <= {
        "publications"
    }  # counts without any noise, each 0 or equal to another, lie on the grid all the same


def test_a_run_that_signs_itself_verifies_and_is_shown_as_such(released_copy):
    forgery = Forgery(released_copy)
    forgery.finish(owner=True)
    found = examine_run(released_copy)
    assert found.findings == []
    assert all("self-signed" in signature.text for signature in found.signatures.values())


def test_reading_changes_no_file(released_copy):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in released_copy.rglob("*")}

    before = state()
    assert verify_run(released_copy) == []
    assert state() == before


def test_noise_on_the_spare_values_alone_is_beyond_verification(tmp_path):
    """What docs/verification.md says that it cannot prove: a machine that tells real coordinates from spare ones."""
    with noise_on_spare_alone():
        run_release(tmp_path / "run", release_configuration())
    assert verify_run(tmp_path / "run") == []
