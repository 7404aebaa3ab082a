"""A registry record fits the published schema, says what the run gives, and leaves open what it cannot know."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from experiments.exports.registry import LEFT_OPEN, REGISTRY_FILE, RegistryError, registry_record
from experiments.exports.registry_record import RegistryRecord
from tests.command_line import fedmm
from tests.experiments.exports.conftest import account_of

CHECKOUT = os.environ.get("DP_REGISTRY")  # of github.com/opendp/deployments-registry-data


def record(exported):
    return yaml.safe_load((exported / REGISTRY_FILE).read_text())


def texts(node, path=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from texts(value, path)
    elif isinstance(node, str):
        yield path, node


def test_its_numbers_are_those_of_the_run(exported, report):
    loss = record(exported)["deployment"]["privacy_loss"]
    markets = json.loads((exported / "metrics.json").read_text())["privacy"]["markets"].values()
    assert loss["privacy_parameters"]["epsilon"] == pytest.approx(
        max(found["release"]["epsilon"] for found in markets), rel=2e-3
    )
    assert loss["privacy_parameters"]["delta"] == max(found["release"]["delta"] for found in markets)
    mechanisms = record(exported)["deployment"]["implementation"]["mechanisms"]
    for name, market in report.document.markets.items():
        for stage, noise in market.noise_multipliers.items():
            assert f"Market {name}, {stage}: {market.mechanisms[stage]}, noise multiplier {noise:.6g}" in mechanisms


def test_what_no_run_knows_is_open_and_the_notes_name_it(exported):
    found = record(exported)
    notes = found["deployment"]["administrative"]["notes"]
    open_fields = {path.removeprefix(".deployment.") for path, text in texts(found) if LEFT_OPEN in text}
    assert open_fields == {
        "basic.data_curators",
        "basic.intended_use",
        "basic.data_product_region",
        "deployment_model.release_type_details",
        "implementation.justification",
        "administrative.sources",
        "administrative.registry_authors",
    }
    for field in (*open_fields, "basic.publication_date", "basic.data_product_sector"):
        assert field in notes
    assert found["deployment"]["basic"]["publication_date"] == "1900-01-01"  # that of the registry's template
    assert found["status"] == "Draft"


def test_it_is_written_in_the_manner_that_the_registry_checks(exported):
    path = exported / REGISTRY_FILE
    text = path.read_text()
    assert re.fullmatch(r"[a-z0-9_]+\.yaml", path.name)
    assert text.startswith("url_slug: ")
    styles = {token.style for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)}
    assert styles <= {None, "|", '"', "'"}  # folded blocks are refused there
    basic = record(exported)["deployment"]["basic"]
    named = "_".join([basic["name"], *basic["data_curators"], "1900"])
    assert record(exported)["url_slug"] == re.sub(r"[\W_]+", "-", named.lower())
    assert RegistryRecord.model_validate(yaml.safe_load(text)).model_dump() == record(exported)


@pytest.mark.skipif(CHECKOUT is None, reason="DP_REGISTRY names no checkout of the registry")
def test_it_fits_the_published_schema(exported):
    import jsonschema  # a second, which every process that collects tests would spend

    schema = yaml.safe_load((Path(CHECKOUT) / "schemas" / "deployments-schema.yaml").read_text())
    checks = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    assert [error.message for error in checks.iter_errors(record(exported))] == []


def test_people_in_several_markets_are_the_unit_where_ids_are_theirs(report):
    run = report.document.run.model_copy(update={"shared_users": "composed"})
    loss = registry_record(report.document.model_copy(update={"run": run})).deployment.privacy_loss
    assert loss.privacy_unit.startswith("a person")
    assert loss.privacy_parameters.epsilon == report.document.across_markets.epsilon["release"]


def test_what_speaks_against_the_guarantee_stands_in_the_notes(report):
    verdict = report.document.verdict.model_copy(update={"compliant": False, "reasons": ["noise from a known seed"]})
    record = registry_record(report.document.model_copy(update={"verdict": verdict}))
    assert (
        "relying on the guarantee, at a limit of ε 20:\n\nnoise from a known seed"
        in record.deployment.administrative.notes
    )


def test_no_record_is_made_of_a_run_without_a_bound_or_one_that_does_not_verify(report):
    market = report.document.markets["m0"]
    nothing = market.views["release"].model_copy(update={"epsilon": None})
    views = {"m0": market.model_copy(update={"views": {**market.views, "release": nothing}})}
    markets = {**report.document.markets, **views}
    with pytest.raises(RegistryError, match="nothing bounds what is learnt"):
        registry_record(report.document.model_copy(update={"markets": markets}))
    broken = report.document.verification.model_copy(update={"verified": False, "findings": ["x"]})
    with pytest.raises(RegistryError, match="does not verify"):
        registry_record(report.document.model_copy(update={"verification": broken}))


def test_it_needs_no_signature_and_is_held_against_the_budget(exported_copy, capsys):
    for name in (REGISTRY_FILE, "compliance.json", "compliance.html"):
        (exported_copy / name).unlink()
    status, out, err = fedmm(capsys, "report", exported_copy, "--registry", "--account", account_of(exported_copy))
    assert (status, err, out.strip()) == (0, "", str(exported_copy / REGISTRY_FILE))
    assert not (exported_copy / "compliance.json").exists()
    assert "speaks against" not in (exported_copy / REGISTRY_FILE).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dsse"], "go with --compliance"),
        (["--compliance", "--max-epsilon", "8", "--dsse"], "--dsse needs --sign"),
        (["--registry", "--sign", "keys"], "go with --compliance"),
        (["--max-epsilon", "8"], "go with --compliance, --registry and --bom"),
        (["--declare-sole-run"], "go with --compliance, --registry and --bom"),
        (["--registry", "--max-epsilon", "0"], "a finite number above 0"),
        (["--bom"], "is this a run directory?"),
    ],
)
def test_options_that_do_not_fit_are_one_line(capsys, options, message):
    status, _, err = fedmm(capsys, "report", "nowhere", *options)
    assert (status, len(err.splitlines())) == (2, 1)
    assert message in err
