"""A run that somebody changed after it was closed, and who uses it: ``recommend``, ``predict``, ``join``, ``attack``.

``fedmm verify`` named every change; who recommended, joined or attacked used what lay there, and said nothing.
"""

import dataclasses
import hashlib
import shutil

import numpy as np
import pytest

from experiments.assessment.attack import attack_run
from fedmm_secure.data.prepare import prepare_one
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.federation.transcript import index_bytes, read_index
from fedmm_secure.foreign.formats import parse_arrays
from fedmm_secure.joining.join import join_market
from fedmm_secure.results.scorers import ReleasedScorer, TrainedScorer
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_foreign_config
from privacy.foreign import ForeignFileError
from tests.conftest import tiny
from tests.released import headed_configuration

COUNTS = "counts/0000-publication-m0.bin"
CHANGED = (RunDirectoryError, ForeignFileError)


def reversed_counts(path):
    """The noisy counts of all items, the other way round: as many bytes, other items on top."""
    arrays = parse_arrays(path.read_bytes(), path)
    name = next(name for name, values in sorted(arrays.items()) if values.ndim)
    before = arrays[name]
    path.write_bytes(arrays_bytes({**arrays, name: before[..., ::-1].copy()}))
    return before, parse_arrays(path.read_bytes(), path)[name]


def index_again(run, file):
    """Whoever changes a record can write its hash into the index as well."""
    data = (run / "transcript" / file).read_bytes()
    records = [
        dataclasses.replace(one, size=len(data), sha256=hashlib.sha256(data).hexdigest()) if one.file == file else one
        for one in read_index(run / "transcript")
    ]
    (run / "transcript" / "index.jsonl").write_bytes(index_bytes(records))


def released(run):
    return ReleasedScorer(ClosedRun(run, "m0"), read_foreign_config(run))


def predicted(run):
    return MarketScorer(run, read_foreign_config(run), prepare_one(tiny().data, "m0"))


# -- what was published ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
def test_a_publication_that_was_changed_is_not_scored_with(released_copy, indexed):
    released(released_copy)
    before, after = reversed_counts(released_copy / "transcript" / COUNTS)
    # the attack: the file reads as before, and says something else
    assert not np.array_equal(before, after)
    assert np.array_equal(np.sort(before, axis=None), np.sort(after, axis=None))
    if indexed:
        index_again(released_copy, COUNTS)
    with pytest.raises(CHANGED, match=r"index of the transcript|closed with"):
        released(released_copy)


def test_a_transcript_that_was_changed_is_not_attacked(released_copy):
    index_again(released_copy, COUNTS)  # nothing changed: an index is what it was
    reversed_counts(released_copy / "transcript" / COUNTS)
    index_again(released_copy, COUNTS)
    with pytest.raises(RunDirectoryError, match="transcript: is not what"):
        attack_run(released_copy, attacks=["linkability"], market="m0")


def test_a_configuration_that_was_changed_is_not_used(released_copy):
    path = released_copy / "config.yaml"
    text = path.read_text()
    assert "temperature: 0.2" in text
    path.write_text(text.replace("temperature: 0.2", "temperature: 0.3"))
    read_foreign_config(released_copy)  # by itself it is a configuration like any other
    with pytest.raises(RunDirectoryError, match=r"config\.yaml: is not what"):
        released(released_copy)


@pytest.mark.parametrize("file", ["models/m0/ctr-0.pt", "models/m0/quantizer-0.pt", "state/private/m0/counts.npz"])
def test_what_the_market_keeps_of_a_release_is_not_scored_with(released_copy, file):
    predicted(released_copy)
    path, other = released_copy / file, released_copy / file.replace("m0", "m1")
    path.write_bytes(other.read_bytes())  # of the same kind and shape: it loads
    with pytest.raises(RunDirectoryError, match="is not what"):
        predicted(released_copy)


# -- what stays in the market, and what others start from --------------------------------------------------------------


@pytest.fixture
def headed_copy(headed_run, tmp_path):
    return shutil.copytree(headed_run, tmp_path / "run")


@pytest.mark.parametrize("file", ["models/m0/ctr-0.npz", "models/m0/quantizer-0.pt"])
def test_models_that_were_changed_are_not_scored_with(headed_copy, file):
    path, other = headed_copy / file, headed_copy / file.replace("m0", "m1")
    config, prepared = headed_configuration(), prepare_one(headed_configuration().data, "m0")
    TrainedScorer(ClosedRun(headed_copy, "m0"), config, prepared)
    path.write_bytes(other.read_bytes())  # of the same kind and shape: it loads
    with pytest.raises(RunDirectoryError, match="is not what"):
        TrainedScorer(ClosedRun(headed_copy, "m0"), config, prepared)


@pytest.mark.parametrize("salt", [True, False])
def test_a_head_with_its_leaves_turned_round_is_not_joined(headed_copy, tmp_path, salt):
    config, layout = headed_configuration(), RunDirectory(headed_copy)
    newcomer = tiny(data={"synthetic": {**config.data.synthetic.model_dump(), "markets": 4}}).data
    path = layout.head("m0")
    arrays = parse_arrays(path.read_bytes(), path)
    path.write_bytes(arrays_bytes({**arrays, "value": -arrays["value"]}))  # a head like any other, and the worst one
    assert parse_arrays(path.read_bytes(), path)["value"].shape == arrays["value"].shape
    if not salt:  # whoever lacks the key of the market's commitments cannot tell
        layout.private_key("m0").unlink()
    with pytest.raises(RunDirectoryError, match="is not what"):
        join_market(headed_copy, config, newcomer, "m3", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_markets_of_other_sizes_are_not_generated(headed_run):
    """The ledger says how large the run's markets were, before anything is generated."""
    config, closed = headed_configuration(), ClosedRun(headed_run, "m0")
    closed.refuse_other_sizes(config)
    for change in ({"users": 1_000_000}, {"items": 10_000}, {"markets": 1000, "users": 80}):
        synthetic = config.data.synthetic.model_copy(update=change)
        other = config.model_copy(update={"data": config.data.model_copy(update={"synthetic": synthetic})})
        with pytest.raises(RunDirectoryError, match="the ledger says other sizes"):
            closed.refuse_other_sizes(other)
