import hashlib
import json
import re
import shutil

import pytest
import yaml

from fedmm_secure.federation.messages import pack, unpack
from fedmm_secure.federation.transcript import Record, index_bytes
from fedmm_secure.storage import run_directory
from privacy.accounting.ledger import read_ledger
from privacy.aggregation.keys import KeyDirectory
from tests.command_line import call, fedmm
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def run_dir(config_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert call("run", config_file, "--out", out, "--set", own_account(out)) == 0
    return out


def own_account(run):
    return f"privacy.account={run.parent / 'privacy.account'}"


def test_a_run_leaves_the_directory_of_the_contract(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert {
        "config.yaml", "metrics.json", "ledger", "transcript", "codes", "models", "report.html", "log.jsonl",
        "environment.json",
    } <= names  # fmt: skip


def test_generated_rows_are_nobodys_and_no_account_knows_of_them(run_dir, config_file, capsys):
    again = run_dir.with_name("again")
    assert call("run", config_file, "--out", again, "--set", own_account(run_dir), "--quiet") == 0
    assert not (run_dir.parent / "privacy.account").exists()
    for run in (run_dir, again):
        content = read_ledger(run / "ledger" / "m0.jsonl")
        assert content.opening["synthetic"] is True
        assert "earlier-runs" not in {entry.stage for entry in content.entries}
        statement = json.loads((run / "metrics.json").read_text())["privacy"]["markets"]["m0"]
        assert statement["with_earlier_runs"]["earlier_runs"] == 0
        assert fedmm(capsys, "verify", run)[::2] == (0, "")
    assert fedmm(capsys, "compare", run_dir, again)[1].count("~") == 0  # they ranked the same candidates


def test_the_resolved_configuration_reads_back_equal(run_dir):
    from fedmm_secure.storage.run_directory import read_config

    assert read_config(run_dir) == read_config(run_dir)
    assert read_config(run_dir).federation.rounds == 3


def test_verify_accepts_an_untouched_run(run_dir, capsys):
    status, out, err = fedmm(capsys, "verify", run_dir)
    assert (status, err) == (0, "")
    assert "verified" in out


def tampered(run_dir, tmp_path, edit):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    edit(copy)
    return copy


def _edit_ledger(run):
    path = run / "ledger" / "m1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))


def _claim(view, field, value):
    """An edit that claims something else for market m1."""

    def edit(run):
        path = run / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["privacy"]["markets"]["m1"][view][field] = value
        path.write_text(json.dumps(metrics))

    return edit


def _swap_ledgers(run):
    (run / "ledger" / "m1.jsonl").write_bytes((run / "ledger" / "m0.jsonl").read_bytes())


def _edit_message(run):
    path = run / "transcript" / "quantizer" / "0" / "0001-update-m1.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def _add_unledgered_message(run):
    """A second message of the market slips past the ledger, index and all."""
    index = run / "transcript" / "index.jsonl"
    records = [json.loads(line) for line in index.read_text().splitlines()]
    record = next(r for r in records if r["kind"] == "update" and r["sender"] == "m1" and r["round"] == 0)
    extra = b"everything we know about user 7"
    record = record | {"file": "quantizer/0/0000-extra-m1.bin", "size": len(extra)}
    record["sha256"] = hashlib.sha256(extra).hexdigest()
    (run / "transcript" / record["file"]).write_bytes(extra)
    index.write_bytes(index_bytes(Record(**found) for found in [*records, record]))  # as the code spells it


def _rewrite_aggregate(make):
    """Another aggregate of round 2, with a matching index."""

    def edit(run):
        path = run / "transcript" / "quantizer" / "0" / "0002-aggregate-server.bin"
        path.write_bytes(make(run, path))
        index = run / "transcript" / "index.jsonl"
        lines = []
        for line in index.read_text().splitlines():
            record = json.loads(line)
            if record["file"].endswith(path.name):
                record |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
            lines.append(json.dumps(record))
        index.write_text("\n".join(lines) + "\n")

    return edit


def _round_before(run, path):
    return path.with_name("0001-aggregate-server.bin").read_bytes()


def _another_sum(run, path):
    """A dishonest server: properly signed, but the sum of the round before."""
    header, _ = unpack(path.read_bytes())
    _, other = unpack(_round_before(run, path))
    return pack(header, other, KeyDirectory(run / "state" / "keys" / "server").identity().sign)


def _another_signer(run, path):
    header, payload = unpack(path.read_bytes())
    return pack(header, payload, KeyDirectory(run / "state" / "keys" / "m0").identity().sign)


def _edit_bundle(run):
    path = run / "transcript" / "federation.json"
    path.write_text(path.read_text().replace('"cohort": 3', '"cohort": 4'))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_edit_ledger, "m1.jsonl:3: "),
        (_claim("market", "epsilon", 8.0), "view market: claimed epsilon 8"),
        (_claim("market", "delta", 1e-9), "market m1, market.delta: says 1e-09"),
        (_claim("profile", "epsilon", 1.0), "market m1, profile.epsilon: says 1.0, the ledger gives None"),
        (_swap_ledgers, "another market"),
        (_edit_message, "0001-update-m1.bin"),
        (_add_unledgered_message, "is in another file than its record says"),
        (_rewrite_aggregate(_round_before), "its header is of another message"),
        (_rewrite_aggregate(_another_sum), "round 2: the aggregate is not the sum of the recorded updates"),
        (_rewrite_aggregate(_another_signer), "0002-aggregate-server.bin: not signed by server"),
        (_edit_bundle, "federation.json: not a valid bundle: not signed by m0"),
    ],
)
def test_verify_finds_what_was_tampered_with(run_dir, tmp_path, capsys, edit, named):
    status, _, err = fedmm(capsys, "verify", tampered(run_dir, tmp_path, edit))
    assert status == 1
    assert named in err


def test_the_report_is_self_contained(run_dir):
    html = (run_dir / "report.html").read_text()
    assert re.search(r"""(src|href|@import|url)\s*[=(]?\s*["']?(https?:)?//""", html) is None
    assert "no guarantee" in html  # there is no budget, and words say what that means
    assert ">∞" not in html


def test_json_output_is_the_metrics(config_file, tmp_path, capsys):
    status, out, _ = fedmm(capsys, "run", config_file, "--out", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out)["macro"]["auc"] > 0.5


RELEASE = ["run", "synthetic", "--set", "privacy.epsilon=8", "--set", "privacy.protect=release", "--set"]
DISTRIBUTED = ["run", "synthetic", "--set", "privacy.epsilon=8", "--set", "privacy.distributed_noise=true",
               "--set", "privacy.quantizer.steps_per_round=1",
               "--set", "aggregation.kind=masked-ckks", "--set"]  # fmt: skip
USER_MISTAKES = [
    (["run", "quickstrt"], "did you mean 'quickstart'"),
    (["run", "synthetic", "--set", "privacy.epsilom=8"], "privacy.epsilom: unknown key; did you mean 'epsilon'"),
    (["run", "synthetic", "--set", "privcy.epsilon=8"], "privcy: unknown key; did you mean 'privacy'"),
    (["run", "synthetic", "--set", "privacy.epsilon=much"], "privacy.epsilon: input should be a valid number"),
    (["run", "synthetic", "--set", "privacy.ceiling=8"], "privacy.ceiling needs privacy.epsilon"),
    (["run", "synthetic", "--set", "privacy.epsilon=8", "--set", "privacy.ceiling=7.9"], "and is no smaller"),
    (["run", "synthetic", "--set", "privacy.epsilon=-1"], "privacy.epsilon: input should be greater than 0"),
    (["run", "synthetic", "--set", "data.synthetic.user=30"], "did you mean 'users'"),
    (["run", "synthetic", "--set", "seed"], "expected KEY=VALUE"),
    (["run", "synthetic", "--set", "data.synthetic.markets=2"], "allow_small_cohort"),
    (
        ["run", "synthetic", "--set", "data.synthetic.markets=2", "--set", "federation.allow_small_cohort=true"],
        "set aggregation.kind: ckks",
    ),
    (["run", "synthetic", "--set", "ctr.features=[user_id]"], "user_id cannot be cross-fitted"),
    ([*RELEASE, "embedding.kind=svd"], "privacy.protect: release needs embedding.kind: dp-svd"),
    ([*RELEASE, "ctr.model=boosted"], "boosted cannot train with DP-SGD"),
    ([*RELEASE, "ctr.features=[user_id, counts]"], "user_id cannot be cross-fitted"),
    ([*RELEASE, "ctr.features=[recency]"], "recency needs privacy.contribution.reference_date"),
    ([*RELEASE, "ctr.tune=true"], "outside the budget"),
    ([*RELEASE, "ctr.training=in-sample"], "needs ctr.training: cross-fit"),
    ([*RELEASE, "ctr.codes=local"], "ctr.codes: local would train codes on raw rows"),
    ([*RELEASE, "ctr.layers=[global]"], "a released model sees both"),
    (["run", "synthetic", "--set", "ctr.codes=local", "--set", "ctr.average_local=true"], "needs ctr.codes: federated"),
    (["run", "synthetic", "--set", "privacy.user_codes_epsilon=2"], "privacy.user_codes_epsilon needs privacy.epsilon"),
    (["run", "synthetic", "--set", "embedding.kind=dp-svd"], "dp-svd needs privacy.epsilon"),
    (["run", "synthetic", "--set", "ctr.baselines=[noisy-popularity]"], "noisy-popularity needs privacy.epsilon"),
    ([*DISTRIBUTED, "aggregation.kind=ckks"], "whoever opens a single update finds a part of the noise"),
    ([*DISTRIBUTED, "privacy.quantizer.steps_per_round=2"], "so that noise adds up"),
    ([*DISTRIBUTED, "privacy.colluding_markets=2"], "must leave two honest markets of 3"),
    (["budget", "synthetic"], "privacy.epsilon is not set"),
    (["run", "synthetic", "--set", "aggregation.bits=30", "--set", "aggregation.kind=rot13"], "aggregation.kind"),
    (["run", "synthetic", "--set", "quantizer.global_codes=300"], "at most 255 codes"),
    (["run", "--resume"], "--resume needs --out"),
    (["verify", "nowhere"], "neither a run directory nor a report"),
    (["report", "nowhere"], "is this a run directory"),
    (["attack", "nowhere"], "is this a run directory"),
    (["audit", "nowhere"], "no such file or configuration"),
    (["audit", "synthetic"], "no guarantee is claimed"),
    (["audit", "synthetic", "--set", "privacy.epsilon=4", "--market", "mars"], "--market mars: the markets are"),
    (["bench", "shadows", "--set", "privacy.epsilon=4"], "trained one by one"),
]


@pytest.mark.parametrize(("arguments", "message"), USER_MISTAKES)
def test_a_mistake_gets_one_line_and_status_2_and_leaves_nothing(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = fedmm(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_overwritten(run_dir, config_file, capsys):
    before = (run_dir / "metrics.json").read_bytes()
    status, _, err = fedmm(capsys, "run", config_file, "--out", run_dir)
    assert status == 2
    assert "not empty; use --resume" in err
    assert (run_dir / "metrics.json").read_bytes() == before


def test_a_directory_in_use_is_left_alone(run_dir, capsys):
    with run_directory.locked(run_dir):
        status, _, err = fedmm(capsys, "run", "--resume", "--out", run_dir)
    assert status == 2
    assert "another process is running in it" in err


def test_resume_refuses_another_configuration(run_dir, config_file, capsys):
    status, _, err = fedmm(capsys, "run", config_file, "--set", "federation.rounds=4", "--out", run_dir, "--resume")
    assert status == 2
    assert "another configuration" in err


def test_resume_of_a_finished_run_changes_nothing(run_dir, config_file, capsys):
    before = json.loads((run_dir / "metrics.json").read_text())
    assert fedmm(capsys, "run", config_file, "--set", own_account(run_dir), "--out", run_dir, "--resume")[0] == 0
    after = json.loads((run_dir / "metrics.json").read_text())
    assert {**before, "seconds": 0, "memory": 0} == {**after, "seconds": 0, "memory": 0}


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["run"],
        ["verify"],
        ["attack"],
        ["audit"],
        ["bench", "shadows"],
        ["bench", "noise"],
        ["report"],
        ["data", "info"],
        ["data", "check"],
        ["data", "synthesize"],
    ],
)
def test_every_verb_has_help_with_an_example(verb, capsys):
    status, out, _ = fedmm(capsys, *verb, "--help")
    assert status == 0
    assert "Example: fedmm" in out or not verb


def test_own_files_from_synthesis_to_run(tmp_path, capsys, monkeypatch):
    """A stranger's way: CSV files, a configuration, checks, a run."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = fedmm(capsys, "data", "synthesize", "csv", "--users", 80, "--items", 40)
    assert status == 0
    assert sorted(out.split()) == [f"csv/m{i}.{ending}" for i in range(3) for ending in ("csv", "items.txt")]
    columns = {"user": "user", "item": "item"}  # neither rating nor time
    own = {**TINY, "data": {"root": "csv", "markets": {f"m{i}": {"path": f"m{i}.csv", **columns} for i in range(3)}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert fedmm(capsys, "data", "check", "own.yaml")[0] == 0
    assert "m2" in fedmm(capsys, "data", "info", "own.yaml")[1]
    assert fedmm(capsys, "run", "own.yaml", "--out", "out")[0] == 0
    assert (tmp_path / "out" / "report.html").is_file()

    text = (tmp_path / "csv" / "m1.csv").read_text().splitlines(keepends=True)
    (tmp_path / "csv" / "m1.csv").write_text("".join([*text[:4], "only-one-field\n", *text[4:]]))
    status, _, err = fedmm(capsys, "run", "own.yaml", "--out", "bad")
    assert status == 2
    assert "m1.csv:5: 1 fields where 4 were expected" in err
    assert not (tmp_path / "bad").exists()
    assert fedmm(capsys, "data", "check", "own.yaml")[0] == 2


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = fedmm(capsys, "run", "--out", str(tmp_path / "file" / "r1"))
    assert status == 2
    assert "cannot be written" in err
    assert len(err.splitlines()) == 1
