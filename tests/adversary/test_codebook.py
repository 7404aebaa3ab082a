"""The owner of a run with distributed noise publishes another global codebook than the sums of the rounds make."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.verification import examine_run
from experiments.verification.evidence import read_configuration, read_evidence
from experiments.verification.opening import opening_findings
from experiments.verification.publications import _codes, _published_embedding, read_publications
from fedmm_secure.artefacts import quantizer_path, write_parquet
from fedmm_secure.storage import torch_bytes
from tests.conftest import tiny
from tests.forgery import Forgery
from tests.released import BASELINES, PRIVATE, RELEASE, run_release


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    config = tiny(
        privacy={**RELEASE, "distributed_noise": True},
        embedding=PRIVATE,
        ctr=BASELINES,
        aggregation={"kind": "masked-ckks"},
        federation={"rounds": 3, "warm_up_rounds": 1},
    )
    directory = tmp_path_factory.mktemp("distributed") / "run"
    run_release(directory, config)
    return directory


def with_another_codebook(run: Forgery) -> None:
    """Rows as offsets of the codewords; everything that follows from them is fitted."""
    rng, directory = np.random.default_rng(0), run.directory
    offsets = None
    for market in run.markets:
        file = f"quantizer-model/0/0000-publication-{market}.bin"
        state = torch.load(io.BytesIO(run.read(file)), weights_only=True)
        words = state["global_codebook.codewords"]
        offsets = torch.from_numpy(rng.uniform(0, 0.1, words.shape)).float() if offsets is None else offsets
        state["global_codebook.codewords"] = words + offsets
        run.replace(file, torch_bytes(state))
        quantizer_path(directory, market, 0).write_bytes(torch_bytes(state))
    run.finish(owner=True)
    config, metrics = read_configuration(directory)
    evidence, _ = read_evidence(directory, config, metrics)
    opening_findings(evidence)
    published, _ = read_publications(evidence)
    for market in run.markets:
        read = published[market].read
        codes = _codes(config, read["quantizer-model/0"], _published_embedding(published[market]))
        buffer = io.BytesIO()
        np.save(buffer, codes)
        run.replace(f"item-codes/0/0000-publication-{market}.bin", buffer.getvalue())
        path = directory / "codes" / f"{market}.parquet"
        table = pd.read_parquet(path)
        table.loc[table.kind == "item", ["global_code", "local_code"]] = codes
        write_parquet(path, table)
    run.finish(owner=True)


def test_the_sums_make_the_published_codebook_bit_by_bit(distributed):
    assert examine_run(distributed).findings == []


def test_another_codebook_is_found_by_the_replay_of_the_rounds_alone(distributed, tmp_path):
    """All other checks pass, as they did when nothing replayed gradient steps."""
    copy = shutil.copytree(distributed, tmp_path / "run")
    with_another_codebook(Forgery(copy))
    checks = {name: found for name, found in examine_run(copy).checks.items() if found}
    assert list(checks) == ["models and codes"]
    assert {finding.what for finding in checks["models and codes"]} == {
        "its global codebook is not what the sums of the rounds make of the public start"
    }
    assert {finding.where for finding in checks["models and codes"]} == {
        str(quantizer_path(copy, market, 0)) for market in ("m0", "m1", "m2")
    }
