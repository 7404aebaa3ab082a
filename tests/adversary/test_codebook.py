"""The owner of a run with distributed noise publishes another global codebook than the sums of the rounds make."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.views import collusion_view, owner_values
from experiments.verification import examine_run
from experiments.verification.evidence import read_configuration, read_evidence
from experiments.verification.opening import opening_findings
from experiments.verification.publications import _codes, _published_factors, read_publications
from experiments.verification.standardisations import _constants
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.storage.files import torch_bytes, write_parquet
from fedmm_secure.storage.layout import RunDirectory
from tests.conftest import tiny
from tests.forgery import Forgery
from tests.handing_out import class_of, files, hand_out
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
        RunDirectory(directory).quantizer(market, 0).write_bytes(torch_bytes(state))
    run.finish(owner=True)
    config, metrics = read_configuration(directory)
    evidence, _ = read_evidence(directory, config, metrics)
    opening_findings(evidence)
    published, _ = read_publications(evidence)
    for market in run.markets:
        read = published[market].read
        codes = _codes(config, read["quantizer-model/0"], _published_factors(published[market]))
        buffer = io.BytesIO()
        np.save(buffer, codes)
        run.replace(f"item-codes/0/0000-publication-{market}.bin", buffer.getvalue())
        path = directory / "codes" / f"{market}.parquet"
        table = pd.read_parquet(path)
        table.loc[table.kind == "item", ["global_code", "local_code"]] = codes
        write_parquet(path, table)
        file = f"ctr/0/0000-publication-{market}.bin"
        state = torch.load(io.BytesIO(run.read(file)), weights_only=True)
        embedding = released_embedding(config, dict(read["counts"]), dict(read["embedding"]))
        constants = _constants(config, market, 0, embedding, read["quantizer-model/0"])
        state |= {name: torch.from_numpy(values) for name, values in constants.items()}
        run.replace(file, torch_bytes(state))
        (directory / "models" / market / "ctr-0.pt").write_bytes(torch_bytes(state))
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
        str(RunDirectory(copy).quantizer(market, 0)) for market in ("m0", "m1", "m2")
    }


def integers(data):
    return np.frombuffer(data, "<i8").astype(float)


def test_a_reader_of_what_is_handed_out_sees_no_part_of_the_noise_alone(distributed, tmp_path):
    """Each update has one part of the noise of their sum: whoever reads it has a guarantee that nobody states."""
    own, round = [PrivateRecord(distributed, market).transcript for market in ("m0", "m1", "m2")], 1
    updates = [
        found.find(kind="own-update", stage="quantizer/0", round=round, sender=f"m{index}")
        for index, found in enumerate(own)
    ]
    transcript = Transcript(distributed / "transcript")
    total = transcript.find(kind="sum", stage="quantizer/0", round=round, sender="server")
    # the attack works on who has them: about a third of the variance, 32 coordinates
    assert all(integers(data).var() < 0.7 * integers(total).var() for data in updates)
    handed = hand_out(distributed, tmp_path / "handed", released=True)
    assert None not in {class_of(name, released=True) for name in files(distributed)}
    everything = b"".join((handed / name).read_bytes() for name in files(handed))
    assert total in everything
    assert not any(data in everything for data in updates)
    assert examine_run(handed).findings == []
    with pytest.raises(RunDirectoryError, match="is private, and only the market's own run directory holds it"):
        owner_values(handed)
    with pytest.raises(RunDirectoryError, match="no keys"):
        collusion_view(handed, ["m0"])


def test_truth_that_somebody_edited_is_not_what_attacks_are_scored_against(distributed, tmp_path):
    copy = shutil.copytree(distributed, tmp_path / "run")
    assert owner_values(copy).select("own-update")
    path = copy / "private" / "m0" / "quantizer" / "0" / "0001-own-update-m0.bin"
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(RunDirectoryError, match="is not what the run's ledger was closed with"):
        owner_values(copy)
