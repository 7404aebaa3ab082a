import numpy as np
import pytest
import torch

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.federation.messages import Header, pack
from fedmm_secure.federation.server import AggregationServer, CohortTooSmallError
from fedmm_secure.federation.setup import open_federation
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.pipeline import train_federated
from privacy.aggregation import FixedPointCodec, PlaintextMarket, PlaintextServer
from tests.conftest import tiny


def train(config, markets, directory):
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in markets.items()}
    return train_federated(open_federation(config, markets, directory), 0, embeddings)


@pytest.fixture(scope="module")
def by_kind(tiny_markets, tmp_path_factory):
    found = {}
    for kind in ("plaintext", "ckks"):
        directory = tmp_path_factory.mktemp(kind)
        found[kind] = (train(tiny(aggregation={"kind": kind}), tiny_markets, directory), directory)
    return found


def test_plaintext_and_ckks_give_bit_identical_models(by_kind):
    for name, model in by_kind["plaintext"][0].items():
        other = by_kind["ckks"][0][name]
        for left, right in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(left, right)


def test_all_markets_share_the_global_codebook_and_nothing_else(by_kind):
    models = list(by_kind["ckks"][0].values())
    for other in models[1:]:
        assert torch.equal(models[0].global_codebook.codewords, other.global_codebook.codewords)
        assert not torch.equal(models[0].local_codebook.codewords, other.local_codebook.codewords)
        assert not torch.equal(models[0].encoder[0].weight, other.encoder[0].weight)


def test_the_broadcast_sum_is_the_sum_of_the_markets_own_updates(by_kind):
    transcript = Transcript(by_kind["ckks"][1] / "transcript")
    for round in range(3):
        own = [
            np.frombuffer(transcript.find(kind="own-update", stage="quantizer/0", round=round, sender=name), "<i8")
            for name in ("m0", "m1", "m2")
        ]
        total = np.frombuffer(transcript.find(kind="sum", stage="quantizer/0", round=round, sender="server"), "<i8")
        np.testing.assert_array_equal(total, np.sum(own, axis=0))
        assert np.abs(total).sum() > 0


def test_the_transcript_shows_the_server_no_plaintext_under_ckks(by_kind):
    records = Transcript(by_kind["ckks"][1] / "transcript").records
    seen = {record.kind for record in records if "server" in record.visible_to}
    assert seen == {"update", "aggregate"}


def test_dp_training_reads_no_user_row_in_warm_up(tiny_markets, tmp_path):
    config = tiny(
        federation={"rounds": 2, "warm_up_rounds": 1},
        embedding={"kind": "svd"},
        privacy={"epsilon": 8.0, "noise_seed": 1},
        aggregation={"kind": "plaintext"},
    )
    changed = {}
    for name, prepared in tiny_markets.items():
        embedding = fit_embedding(prepared, config.embedding)
        embedding.user_factors_ = np.flip(embedding.user_factors_, axis=1).copy()
        changed[name] = embedding
    plain = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    sums = []
    for label, embeddings in (("a", plain), ("b", changed)):
        directory = tmp_path / label
        train_federated(open_federation(config, tiny_markets, directory), 0, embeddings)
        transcript = Transcript(directory / "transcript")
        sums.append([transcript.find(kind="sum", stage="quantizer/0", round=r, sender="server") for r in range(2)])
    assert sums[0][0] == sums[1][0]  # warm-up: user rows do not matter
    assert sums[0][1] != sums[1][1]


MARKETS = ("a", "b", "c", "d")


@pytest.fixture
def server(tmp_path):
    return AggregationServer(
        run="run",
        parameters_sha256="p",
        markets=MARKETS,
        min_cohort=3,
        aggregator=PlaintextServer(2),
        transcript=Transcript(tmp_path),
    )


def update(market, values, *, round=0, run="run", parameters="p"):
    integers = FixedPointCodec().encode(np.asarray(values, dtype=float))
    return pack(Header("update", run, "s", round, market, parameters), PlaintextMarket(2).protect(integers))


def four():
    return {market: update(market, [0.1 * i, 0.5]) for i, market in enumerate(MARKETS)}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update("d", [0, 0], round=7), "round is 7"),
        (update("d", [0, 0], run="other"), "run is 'other'"),
        (update("d", [0, 0], parameters="q"), "parameters"),
        (update("a", [0, 0]), "sender is 'a'"),
        (b"", "truncated"),
        (update("d", [0, 0])[:-1], "15 bytes where 16"),
    ],
)
def test_a_bad_update_is_left_out_and_named_and_the_round_goes_on(server, bad, reason):
    result = server.aggregate("s", 0, {**four(), "d": bad})
    assert result.cohort == ("a", "b", "c")
    (rejection,) = result.rejections
    assert (rejection.market, rejection.round) == ("d", 0)
    assert reason in rejection.reason


def test_a_replayed_payload_under_another_name_is_left_out(server):
    copied = update("d", [0.0, 0.5])  # what market a sends
    result = server.aggregate("s", 0, {**four(), "d": copied})
    assert result.cohort == ("a", "b", "c")


def test_below_the_minimum_cohort_the_round_stops_and_nothing_is_recorded(server, tmp_path):
    with pytest.raises(CohortTooSmallError, match=r"2 valid updates, 3 are needed .*c: .*d: "):
        server.aggregate("s", 0, {**four(), "c": b"junk", "d": b""})
    assert Transcript(tmp_path).records == []
