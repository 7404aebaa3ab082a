"""What publications may hold, against the arrays that the real models and mechanisms make."""

import io
import zipfile

import numpy as np
import pytest
import torch
from scipy import sparse

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts
from fedmm_secure.ctr.features import FeatureBuilder
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR
from fedmm_secure.ctr.private_features import PrivateHistory
from fedmm_secure.guarantee.expected_arrays import ctr_arrays, model_arrays, on_grid
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.published_arrays import PublicationError, read_numpy, read_tensors
from fedmm_secure.quantization.build import initial_model
from fedmm_secure.quantization.codes import Codes
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.files import torch_bytes
from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.dp_svd import GRAM_LEVELS
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny
from tests.unpacking import archive_of

USERS, ITEMS = 80, 40
NOISE = {"counts": 1.5, "embedding": 3.0, "quantizer": 2.0, "ctr": 2.0}


def config(**ctr):
    return tiny(
        privacy={
            "epsilon": 8.0,
            "protect": "release",
            "user_codes_epsilon": 1.0,
            "contribution": {"reference_date": "2022-01-01", "time_weight": 0.5},
        },
        embedding={"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}},
        ctr={"baselines": [], **ctr},
    )


def plan(**ctr):
    return SpendingPlan.of(config(**ctr), "m0", {name: MarketSize(USERS, ITEMS) for name in ("m0", "m1", "m2")}, NOISE)


def npz(**arrays):
    return arrays_bytes(arrays)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def counts():
    rows = sparse.random_array((USERS, ITEMS), density=0.2, rng=np.random.default_rng(0), format="csr")
    both = sparse.csr_array(sparse.hstack([rows, 0.5 * rows]))
    values, moments = noisy_counts(both, NOISE["counts"], NoiseSource.from_seed(1)).values.reshape(2, -1)
    return {"values": values, "noise": np.array(NOISE["counts"]), "moments": moments, "time_weight": np.array(0.5)}


@pytest.fixture(scope="module")
def embedding(counts):
    found = DPSVDEmbedding(ItemCounts.from_arrays(counts), config().embedding.private)
    rows = sparse.random_array((USERS, ITEMS), density=0.2, rng=np.random.default_rng(0), format="csr")
    released = found.release(rows, NOISE["embedding"], NoiseSource.from_seed(2))
    arrays = {
        "items": found.items_,
        "factors": released.factors,
        "eigenvalues": released.eigenvalues,
        "noise_edge": np.array(released.noise_edge),
        "gram": released.gram,
        "gram_noise": np.array(NOISE["embedding"]),
    }
    return found.set_factors(released, sparse.csr_array((0, ITEMS))), arrays


def model_state():
    return {name: value.detach().clone() for name, value in initial_model(config(), 0).state_dict().items()}


def ctr_state(embedding, **ctr):
    """A real model on the features of a real market's published values."""
    found = config(**ctr)
    codes = Codes(np.zeros((0, 2), np.int64), np.zeros((ITEMS, 2), np.int64))
    sizes = (found.quantizer.global_codes, found.quantizer.local_codes)
    history = PrivateHistory(embedding, sparse.csr_array((0, ITEMS)))
    schema = FeatureBuilder(found.ctr.features, history, codes, sizes).schema()
    return PrivateCTR(found.ctr.model, schema, neural_choices(found.ctr), 0).state_dict()


MODELS = [
    {},
    {"model": "dcnv2"},
    {"model": "logistic"},
    {"model": "deepfm", "features": ["item_id", "scores"]},
    {"model": "deepfm", "features": ["user_codes", "counts"], "hidden": [8]},
    {"model": "dcnv2", "features": ["counts", "item_codes", "code_affinity", "item_id"], "hidden": [8, 4, 2]},
    {"model": "deepfm", "features": ["scores"]},
]


@pytest.mark.parametrize("ctr", MODELS)
def test_the_tensors_of_every_model_are_those_that_the_model_has(embedding, ctr):
    state = ctr_state(embedding[0], **ctr)
    flat = {**{f"network.{name}": value for name, value in state["network"].items()}, **state}
    del flat["network"]
    found = {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in flat.items()}
    assert ctr_arrays(config(**ctr), ITEMS) == found
    assert Publications(plan(**ctr)).problem("ctr/0", torch_bytes(state)) is None


def test_the_tensors_of_the_quantiser_are_those_that_the_model_has():
    state = model_state()
    found = {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in state.items()}
    assert model_arrays(config()) == found
    assert Publications(plan()).problem("quantizer-model/0", torch_bytes(state)) is None


@pytest.fixture
def published(counts, embedding):
    """Counts and factors, read and found right."""
    found = Publications(plan())
    assert found.problem("counts", npz(**counts)) is None
    assert found.problem("embedding", npz(**embedding[1])) is None
    return found


def test_codes_are_of_items_and_of_users_and_in_range(published):
    assert published.problem("item-codes/0", npy(np.zeros((ITEMS, 2), np.int64))) is None
    assert published.problem("user-codes/0", npz(codes=np.full((USERS, 2), 7))) is None
    assert "codes is int64 of shape (120, 2)" in published.problem(
        "item-codes/0", npy(np.zeros((ITEMS + USERS, 2), np.int64))
    )
    assert "out of range" in published.problem("item-codes/0", npy(np.full((ITEMS, 2), 8)))
    assert "out of range" in published.problem("user-codes/0", npz(codes=np.full((USERS, 2), -1)))
    assert "float64" in published.problem("item-codes/0", npy(np.zeros((ITEMS, 2))))


def test_counts_are_multiples_of_the_grid_and_of_the_stated_noise(counts):
    grid = Grid.of(NOISE["counts"])
    most = grid.most(USERS)
    assert on_grid(counts["values"], grid, most)
    assert not on_grid(counts["values"] + 1e-12, grid, most)
    assert not on_grid(np.nextafter(counts["values"], np.inf), grid, most)
    assert not on_grid(np.array([np.nan]), grid, most)
    raw = {**counts, "values": np.random.default_rng(0).poisson(4, ITEMS) * 0.9}
    assert "no discrete noise was added" in Publications(plan()).problem("counts", npz(**raw))
    apart = {**counts, "moments": counts["moments"] + 1e-9}
    assert "no discrete noise was added" in Publications(plan()).problem("counts", npz(**apart))
    weighted = {**counts, "time_weight": np.array(1.0)}
    assert "another weight" in Publications(plan()).problem("counts", npz(**weighted))
    assert "says noise 15" in Publications(plan()).problem("counts", npz(**counts | {"noise": np.array(15.0)}))


def test_factors_are_of_the_items_that_the_counts_choose(published, counts, embedding):
    arrays = embedding[1]
    others = np.sort(np.setdiff1d(np.arange(ITEMS), arrays["items"])[: len(arrays["items"])])
    others = np.sort(np.concatenate([others, arrays["items"]])[: len(arrays["items"])])
    assert "not those that the published counts choose" in published.problem(
        "embedding", npz(**arrays | {"items": others})
    )
    assert "no counts" in Publications(plan()).problem("embedding", npz(**arrays))
    more = {**arrays, "eigenvalues": np.ones(5)}
    assert "eigenvalues is float64 of shape (5,)" in published.problem("embedding", npz(**more))


def test_factors_follow_from_noisy_co_occurrence(published, embedding):
    arrays = embedding[1]
    gram, step = arrays["gram"], Grid.of(NOISE["embedding"], levels=GRAM_LEVELS).step
    raw = {**arrays, "gram": np.rint(gram)}
    assert "no discrete noise was added" in published.problem("embedding", npz(**raw))
    far = gram.copy()
    far[0, 0] = np.rint(far[0, 0] / step) * step + 2.0**40 * step
    assert "more than users and noise come to" in published.problem("embedding", npz(**arrays | {"gram": far}))
    lopsided = gram.copy()
    lopsided[0, 1] += step
    assert "not symmetric" in published.problem("embedding", npz(**arrays | {"gram": lopsided}))
    turned = {**arrays, "factors": np.roll(arrays["factors"], 1, axis=0)}
    assert "not eigenvectors" in published.problem("embedding", npz(**turned))
    assert "says noise 1" in published.problem("embedding", npz(**arrays | {"gram_noise": np.array(1.0)}))


def wrong_models():
    state = model_state()
    bias = state["encoder.0.bias"]
    wide = torch.cat([bias, torch.zeros(400)])[: len(bias)]
    yield "another tensor", {**state, "rows": torch.zeros(40, 8)}, "'rows' is nothing that it publishes"
    yield "none", {name: value for name, value in state.items() if "bias" not in name}, "is missing"
    yield "another type", {**state, "encoder.0.bias": bias.double()}, "float64"
    yield "another shape", {**state, "encoder.0.bias": torch.zeros(17)}, "shape (17,)"
    yield "a view", {**state, "encoder.0.bias": wide}, "its storage holds more than its values"
    yield "one for two", {**state, "decoder.0.bias": bias}, "9 storages for 10"
    yield "strided", {**state, "encoder.0.weight": state["encoder.0.weight"].T.contiguous().T}, "its storage"
    yield "a number", {**state, "encoder.0.bias": 3}, "is no tensor"
    yield "a list", [bias], "no mapping"
    yield "names that are none", {**state, 3: bias}, "'3' is nothing"
    yield "nested twice", {"network": {"network": state}}, "is no tensor"
    yield "a large tensor", {**state, "encoder.0.bias": torch.zeros(10**5)}, "holds more than them"


@pytest.mark.parametrize(
    ("name", "state", "what"), wrong_models(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_whatever_else_a_model_holds_is_found(name, state, what):
    assert what in (Publications(plan()).problem("quantizer-model/0", torch_bytes(state)) or "nothing")


def test_constants_of_a_released_model_are_those_of_its_features(embedding):
    state = ctr_state(embedding[0])
    state["network"]["offsets"] += 1
    assert "offsets" in Publications(plan()).problem("ctr/0", torch_bytes(state))


def hostile():
    data = torch_bytes(model_state())
    yield "nothing", b""
    yield "noise", b"\x80\x02c" + bytes(100)
    yield "half", data[: len(data) // 2]
    yield "an archive of something else", archive_of({"archive/data.pkl": b"cos\nsystem\n(S'true'\ntR."})
    yield "a bomb", archive_of({"archive/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    yield "a tail", data + bytes(10**5)
    yield "old format", _old(model_state())


def _old(state):
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), hostile(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("stage", ["quantizer-model/0", "counts", "item-codes/0", "ctr/0"])
def test_bytes_that_are_no_publication_end_in_one_line(stage, name, data):
    problem = Publications(plan()).problem(stage, data)
    assert problem is not None
    assert "\n" not in problem
    assert problem.startswith(f"{stage}: ")


UNTIMED = plan(features=["scores", "counts"])  # counts alone


def test_arrays_that_claim_to_be_huge_are_not_made():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    data = archive_of({"values.npy": header.getvalue(), "noise.npy": npy(np.array(1.0))})
    assert "shape (1099511627776,)" in Publications(UNTIMED).problem("counts", data)


def test_pickled_objects_are_not_read():
    data = archive_of({"values.npy": npy(np.array([None] * ITEMS, dtype=object)), "noise.npy": npy(np.array(1.0))})
    assert "object" in Publications(UNTIMED).problem("counts", data)


def test_an_array_that_is_there_twice_or_under_another_name_is_found(counts):
    members = {"values.npy": npy(counts["values"]), "noise.npy": npy(counts["noise"])}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("noise.npy", npy(np.array(2.0)))
    assert "twice" in Publications(UNTIMED).problem("counts", buffer.getvalue())
    assert "'rows' is nothing" in Publications(UNTIMED).problem(
        "counts", archive_of({**members, "rows.npy": npy(np.ones(3))})
    )


def test_an_array_with_bytes_behind_it_is_found(counts):
    members = {"values.npy": npy(counts["values"]) + b"rows", "noise.npy": npy(counts["noise"])}
    assert "more bytes, or fewer" in Publications(UNTIMED).problem("counts", archive_of(members))
    assert "more bytes, or fewer" in Publications(plan()).problem("item-codes/0", npy(np.zeros((ITEMS, 2), int)) + b"x")


def test_discovered_items_are_a_list_of_distinct_ids_in_order():
    ids = [f"item {number:03d}" for number in range(ITEMS)]
    text = "".join(f"{found}\n" for found in ids).encode()
    assert Publications(plan()).problem("catalogue", text) is None
    assert "holds 39 items" in Publications(plan()).problem("catalogue", text.split(b"\n", 1)[1])
    wrong = (text[:-1], text + text, text + b"a", b"\n" + text, text.replace(b"001", b"0\x0b1"), b"\xff" + text)
    for found in wrong:
        assert Publications(plan()).problem("catalogue", found) is not None


def test_stages_that_publish_nothing_publish_nothing():
    assert "is not a stage that publishes" in Publications(plan()).problem("quantizer/0", b"")


def test_readers_say_what_they_expected():
    with pytest.raises(PublicationError, match="x is float64 of shape"):
        read_numpy(npz(x=np.ones(3)), {"x": ((2,), "float64")})
    with pytest.raises(PublicationError, match="x is float32 of shape"):
        read_tensors(torch_bytes({"x": torch.ones(3)}), {"x": ((3,), "float64")})
    assert read_tensors(torch_bytes({"x": torch.ones(3)}), {"x": ((3,), "float32")})["x"].tolist() == [1.0] * 3
