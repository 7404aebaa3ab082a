"""Natural canary users, from a market's file to a verdict on the claim."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attacks.auditing.canary_users import Published, _Shown
from attacks.auditing.faults import contributions_unbounded, noise_scaled
from attacks.auditing.joint import joint_test
from experiments.assessment.canary_users import canary_readings, sign_readings
from experiments.assessment.statements import add_statement, audit_file, make_statement
from experiments.compliance.build import build_document
from experiments.compliance.document import Declarations
from experiments.reports.run import page_findings, run_page
from experiments.runs.canary_files import SECRET_FILE, read_canary_file, write_canary_files
from experiments.runs.configuration import resolve
from experiments.verification.run import examine_run
from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from privacy.aggregation.identities import Identity
from privacy.mechanisms.randomness import NoiseSource
from tests.command_line import fedmm
from tests.conftest import tiny
from tests.released import PRIVATE, made_once

COUNT = 100
AUDITOR = Identity.generate("auditor")


def released():
    return tiny(
        data={"synthetic": {"markets": 3, "users": 60, "items": 30, "mean_interactions": 8}},
        privacy={
            "epsilon": 8.0,
            "protect": "release",
            "ctr": {"steps": 4},
            "quantizer": {"steps_per_round": 1},
            "pseudo_users": 50,
        },
        embedding={**PRIVATE, "private": {"dim": 4, "max_items": 400, "count_threshold": 0.0}},
        federation={"rounds": 2},
        ctr={"baselines": []},
    )


def made(folder):
    write_canary_files(released(), "m1", COUNT, folder / "files")
    config = resolve(str(folder / "files" / "with-canaries.yaml"), [])
    run_directory.create(folder / "run", config)
    run_pipeline(config, prepare_markets(config.data), folder / "run")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return made_once(tmp_path_factory, "canary-users", made)


def broken(honest, tmp_path, fault):
    """A run on the same files, whose mechanisms are broken; and what its reader makes of it."""
    config = resolve(str(honest / "files" / "with-canaries.yaml"), [])
    run_directory.create(tmp_path / "run", config)
    with fault():
        run_pipeline(config, prepare_markets(config.data), tmp_path / "run")
    _, found = canary_readings(tmp_path / "run", honest / "files", examine_run(tmp_path / "run").plans)
    return {one.reading: one for one in found}


def test_an_honest_run_verifies_and_is_not_refuted(honest, capsys):
    status, out, err = fedmm(capsys, "audit", honest / "run", "--users", honest / "files", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert [one["reading"] for one in found] == ["counts", "factors", "codes", "scores"]
    assert not any(one["refuted"] for one in found)
    assert all(one["low_one_run"] <= one["low_fdp"] + 1.0 <= one["claimed"] + 1.0 for one in found)
    assert found[0]["claimed"] < found[-1]["claimed"] <= 8.0
    assert found[0]["auc"] > 0.6  # they are in, and seen as far as the noise admits
    status, out, _ = fedmm(capsys, "audit", honest / "run", "--users", honest / "files")
    assert (status, "not refuted" in out, "of market m1" in out) == (0, True, True)


@pytest.fixture
def run(honest, tmp_path):
    """A copy that may be written to."""
    return shutil.copytree(honest / "run", tmp_path / "run")


def report_of(run):
    """The compliance report's document, where the auditor's card is known; and what the page's first screen says."""
    known = [{"name": "auditor", "fingerprint": AUDITOR.card.fingerprint}]
    declared = Declarations(signer=None, trusted=known, sole_run=True, max_epsilon=20.0, max_delta=None)
    document = build_document(run, declared, account=run / "none")
    return document, run_page(run, "run", examine_run(run), [AUDITOR.card.fingerprint])


def test_what_they_showed_reaches_page_and_report_signed(honest, run, tmp_path, capsys):
    """By the command; without it the report says that nobody's reading counts of what the run commits to."""
    document, shown = report_of(run)
    what = "canary users of m1: committed to, and no reading of them counts"
    assert (what in document.verdict.open, what in shown) == (True, True)
    assert document.markets["m1"].canary_file == read_canary_file(honest / "files" / SECRET_FILE).digest
    AUDITOR.save(tmp_path / "keys")
    command = ("audit", run, "--users", honest / "files", "--sign", tmp_path / "keys", "--json")
    status, out, _ = fedmm(capsys, *command)
    assert status == 0
    document, shown = report_of(run)
    stated = document.markets["m1"].canary_users
    assert [one.reading for one in stated] == ["counts", "factors", "codes", "scores"]
    for one, said in zip(stated, json.loads(out), strict=True):
        assert (one.auc, one.p_value, one.present) == (said["auc"], said["p_value"], said["present"])
        assert (one.verdict, one.lower_bounds["f-DP"]) == ("not refuted", said["low_fdp"])
        assert f"<td>{one.present} / {COUNT}</td>" in shown
    assert "Canary users of an auditor among the rows of m1" in shown
    assert "canary users of m1: no claim refuted" in shown
    assert not any("canary users" in text for text in (*document.verdict.open, *document.verdict.reasons))
    answers = " ".join(question.answer for question in document.questions)
    assert f"Canary users of m1, {stated[0].present} of {COUNT} in: counts not refuted; factors not refuted" in answers
    assert page_findings(run, examine_run(run))[0] == []
    assert not any(document.markets[name].canary_users for name in ("m0", "m2"))


def test_what_speaks_against_a_run_is_in_the_verdict_whoever_signed_it(honest, run):
    market, (first, second, *others) = canary_readings(run, honest / "files", examine_run(run).plans)
    against = [replace(first, p_value=0.0), replace(second, light=0.0), *others]
    stranger = Identity.generate("stranger")
    for found in ([first], [first, second, *others], against):  # what is read again replaces what was read before
        sign_readings(run, market, found, 0.05, stranger)
    document, shown = report_of(run)
    assert [one.verdict for one in document.markets["m1"].canary_users[:2]] == ["VIOLATED", "shows nothing"]
    assert "m1: canary users, counts: what the run published refutes its claim" in document.verdict.reasons
    lost = "those who are in do not weigh what they add, so that they show nothing"
    assert f"m1: canary users, factors: {lost}" in document.verdict.reasons
    for what in (lost, "what the run published refutes its claim"):
        assert f"canary users of m1: {what}" in shown
    assert [evidence.standing for evidence in document.evidence] == ["untrusted"]


def test_a_reading_of_nothing_is_none_and_refuses_the_report(run):
    path = audit_file(run, "m1")
    path.parent.mkdir(parents=True)
    add_statement(run, path, make_statement(run, "audit", {}, {"canary users": [{"market": "m1"}]}, AUDITOR))
    document, _ = report_of(run)
    assert [one.problem for one in document.evidence] == ["its results cannot be read"]
    assert not document.verdict.compliant


def test_a_run_without_noise_is_refuted(honest, tmp_path):
    found = broken(honest, tmp_path, lambda: noise_scaled(0.0))
    assert found["counts"].refuted
    assert found["counts"].seen.startswith("noise: 0.0")
    assert found["factors"].refuted
    assert found["counts"].low_fdp > 2.0


def test_a_run_without_a_bound_on_contributions_is_refuted(honest, tmp_path):
    found = broken(honest, tmp_path, contributions_unbounded)
    assert found["counts"].refuted
    assert found["counts"].seen.startswith("weight: ")


def test_canary_users_are_users_like_all_others(honest):
    """They count in n; who is in follows from the coins alone, and so does the file."""
    users = read_canary_file(honest / "files" / SECRET_FILE)
    whole = pd.read_csv(honest / "files" / "m1.with-canaries.csv")
    present = set(np.array(users.users, dtype=object)[users.member])
    assert present == set(whole["user"]) & set(users.users)
    assert len(set(whole["user"])) == 60 + len(present)
    metrics = json.loads((honest / "run" / "metrics.json").read_text())
    assert metrics["markets"]["m1"]["n_users"] == 60 + len(present)
    assert metrics["markets"]["m1"]["n_items"] == 30 + 4 * COUNT + 2
    of_all = prepare_markets(resolve(str(honest / "files" / "with-canaries.yaml"), []).data)["m1"]
    assert not set(of_all.market.user_ids[of_all.test.user]) & present  # nobody is tested on them
    assert not set(of_all.market.user_ids[of_all.valid.user]) & present
    catalogue = (honest / "files" / "m1.with-canaries.items.txt").read_text().split()
    assert set(users.items.ravel()) < set(catalogue)  # of those who are out, too


def test_another_file_or_another_catalogue_is_refused(honest, tmp_path):
    plans = examine_run(honest / "run").plans
    for name in (SECRET_FILE, "m1.with-canaries.items.txt"):
        (tmp_path / name).write_bytes((honest / "files" / name).read_bytes())
    secret = tmp_path / SECRET_FILE
    secret.write_text(secret.read_text().replace(f'"count": {COUNT}', f'"count": {COUNT - 1}'))
    with pytest.raises(ConfigError, match=r"audit\.users\.m1 of its configuration is not the hash"):
        canary_readings(honest / "run", tmp_path, plans)
    secret.write_text("{}")
    with pytest.raises(ConfigError, match="no file of canary users"):
        canary_readings(honest / "run", tmp_path, plans)
    secret.write_bytes((honest / "files" / SECRET_FILE).read_bytes())
    with (tmp_path / "m1.with-canaries.items.txt").open("a") as file:
        file.write("another\n")
    with pytest.raises(ConfigError, match="is not the catalogue that market m1 was opened with"):
        canary_readings(honest / "run", tmp_path, plans)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"audit": {"users": {"m7": "ab" * 32}}}, "is no market"),
        ({"audit": {"users": {"m1": "ab" * 32}}}, r"needs privacy\.epsilon and privacy\.protect: release"),
    ],
)
def test_what_a_configuration_may_say_of_them(sections, problem):
    with pytest.raises(ConfigError, match=problem):
        tiny(**sections, **({} if "m1" in sections["audit"]["users"] else {"privacy": {"epsilon": 8.0}}))


def test_the_command_writes_what_a_run_takes_and_writes_over_nothing(tmp_path, capsys):
    out = tmp_path / "files"
    small = ("--set", "data.synthetic.users=60", "--set", "data.synthetic.items=30")
    status, said, _ = fedmm(capsys, "data", "canaries", "quickstart", out, "--market", "m0", "--count", "20", *small)
    assert (status, "of 20 candidates are in" in said) == (0, True)
    config, users = resolve(str(out / "with-canaries.yaml"), []), read_canary_file(out / SECRET_FILE)
    assert config.audit.users == {"m0": users.digest}
    assert prepare_markets(config.data)["m0"].market.n_users == 60 + users.member.sum()
    assert (out / SECRET_FILE).stat().st_mode & 0o077 == 0
    status, _, err = fedmm(capsys, "data", "canaries", "quickstart", out, "--market", "m0")
    assert (status, "is not empty" in err) == (2, True)
    status, _, err = fedmm(capsys, "data", "canaries", "quickstart", tmp_path / "other", "--market", "m9")
    assert (status, "the markets are m0, m1, m2" in err) == (2, True)


def test_what_is_read_of_counts_has_the_law_that_it_is_held_to(honest):
    """False-alarm rate 1e-6 for each of two tests: p-values of 60 releases of the same rows, under noise drawn anew."""
    config = resolve(str(honest / "files" / "with-canaries.yaml"), [])
    users, prepared = read_canary_file(honest / "files" / SECRET_FILE), prepare_markets(config.data)["m1"]
    plan, choices = examine_run(honest / "run").plans["m1"], config.privacy.contribution
    found = []
    for number in range(60):
        noise = NoiseSource.from_seed(number)
        counts = release_counts(
            prepared.market, prepared.split.train, choices, plan.noise["counts"], noise, times=config.times_counted
        )
        scorer = SimpleNamespace(embedding=SimpleNamespace(counts=counts))
        played = _Shown(users, Published(plan, (), scorer, prepared.catalogue))._counts
        found.append((joint_test(played).p_value, played.total.mean() * np.sqrt(COUNT)))
    p, mean = np.array(found).T
    assert (p < 0.05).sum() <= stats.binom.ppf(1 - 1e-6, 60, 0.05)
    assert stats.kstest(mean, "norm").pvalue > 1e-6
