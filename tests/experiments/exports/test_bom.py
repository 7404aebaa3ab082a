"""A bill of materials is valid CycloneDX, names what the run published, and shows no private row."""

import hashlib
import json

from experiments.exports.bom import BOM_FILE, bill_of_materials
from privacy.accounting.ledger import read_ledger


def problem(text):
    """What the published schema, which comes with cyclonedx-python-lib, has against a text."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator  # a second, which one process alone pays

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return found and found.data.message


def bom(exported):
    return json.loads((exported / BOM_FILE).read_text())


def components(exported, kind):
    return {one["bom-ref"]: one for one in bom(exported)["components"] if one["type"] == kind}


def properties(component):
    return {one["name"].removeprefix("fedmm-secure:"): one["value"] for one in component["properties"]}


def test_it_is_valid_and_a_wrong_one_is_not(exported):
    text = (exported / BOM_FILE).read_text()
    assert problem(text) is None
    broken = json.loads(text)
    broken["components"][-1]["modelCard"]["considerations"]["epsilon"] = 8
    assert "epsilon" in problem(json.dumps(broken))


def test_every_published_model_is_there_with_its_digest_and_its_figures(exported):
    metrics, found = json.loads((exported / "metrics.json").read_text()), components(exported, "machine-learning-model")
    markets = metrics["privacy"]["markets"]
    assert found.keys() == {f"models/{name}/{kind}-0.pt" for name in markets for kind in ("quantizer", "ctr")}
    for path, model in found.items():
        market = path.split("/")[1]
        assert model["hashes"] == [
            {"alg": "SHA-256", "content": hashlib.sha256((exported / path).read_bytes()).hexdigest()}
        ]
        assert abs(float(properties(model)["epsilon:release"]) / markets[market]["release"]["epsilon"] - 1) < 2e-3
        assert float(properties(model)["delta:release"]) == markets[market]["release"]["delta"]
        risks = [one["name"] for one in model["modelCard"]["considerations"]["ethicalConsiderations"]]
        assert any(
            risk.startswith("what the release view learns of a user of one market, with all rows there: ε 7.9")
            for risk in risks
        )


def test_references_lead_somewhere_and_a_quantiser_comes_from_all_markets(exported):
    found = bom(exported)
    known = {one["bom-ref"] for one in found["components"]} | {found["metadata"]["component"]["bom-ref"]}
    assert {ref for one in found["dependencies"] for ref in (one["ref"], *one["dependsOn"])} <= known
    by_ref = {one["ref"]: one["dependsOn"] for one in found["dependencies"]}
    assert by_ref["models/m0/quantizer-0.pt"] == ["data/m0", "data/m1", "data/m2"]
    assert by_ref["models/m0/ctr-0.pt"] == ["data/m0", "models/m0/quantizer-0.pt"]
    card = components(exported, "machine-learning-model")["models/m0/ctr-0.pt"]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": "data/m0"}]


def test_of_private_files_there_is_no_hash_and_of_rows_a_keyed_one_that_says_so(exported):
    text = (exported / BOM_FILE).read_text()
    for ledger in (exported / "ledger").glob("*.jsonl"):
        private = read_ledger(ledger).closing["private"]
        assert private
        for name, commitment in private.items():
            assert commitment not in text
            assert hashlib.sha256((exported / name).read_bytes()).hexdigest() not in text
        held = properties(components(exported, "data")[f"data/{ledger.stem}"])
        assert held["keyed-commitment"] == read_ledger(ledger).opening["data"]
        assert "under a key" in held["keyed-commitment:meaning"]
    assert str(exported) not in text


def test_of_synthetic_rows_and_runs_that_publish_nothing_it_says_so(report):
    run = report.document.run.model_copy(update={"synthetic": True, "protect": "federation"})
    markets = {
        name: found.model_copy(update={"shown": {"metrics.json": "0" * 64}})
        for name, found in report.document.markets.items()
    }
    found = bill_of_materials(report.document.model_copy(update={"run": run, "markets": markets}))
    assert problem(json.dumps(found)) is None
    assert {one["type"] for one in found["components"]} == {"data"}
    assert all(one["data"][0]["classification"] == "synthetic" for one in found["components"])
    assert "keyed-commitment" not in json.dumps(found)
