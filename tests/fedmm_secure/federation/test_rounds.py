from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.in_process import connect, run_rounds
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.parties import make_clients, market_sizes, open_federation
from fedmm_secure.federation.private_record import PrivateRecord
from fedmm_secure.federation.server import CohortTooSmallError
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.guarantee.shared_noise import shared_noise
from fedmm_secure.pipeline import train_federated
from privacy.mechanisms.dp_sgd import DPSGDTrainer
from tests.conftest import tiny


def train(config, markets, directory):
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in markets.items()}
    return train_federated(open_federation(config, markets, directory), 0, embeddings)


@pytest.fixture(scope="module")
def by_kind(tiny_markets, tmp_path_factory):
    found = {}
    for kind in ("plaintext", "ckks", "masked-ckks"):
        directory = tmp_path_factory.mktemp(kind)
        found[kind] = (train(tiny(aggregation={"kind": kind}), tiny_markets, directory), directory)
    return found


@pytest.mark.parametrize("kind", ["ckks", "masked-ckks"])
def test_encryption_and_masks_leave_models_bit_identical(by_kind, kind):
    for name, model in by_kind["plaintext"][0].items():
        other = by_kind[kind][0][name]
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
            np.frombuffer(
                PrivateRecord(by_kind["ckks"][1], name).transcript.find(
                    kind="own-update", stage="quantizer/0", round=round, sender=name
                ),
                "<i8",
            )
            for name in ("m0", "m1", "m2")
        ]
        total = np.frombuffer(transcript.find(kind="sum", stage="quantizer/0", round=round, sender="server"), "<i8")
        np.testing.assert_array_equal(total, np.sum(own, axis=0))
        assert np.abs(total).sum() > 0


def test_the_transcript_shows_the_server_no_plaintext_under_ckks(by_kind):
    records = Transcript(by_kind["ckks"][1] / "transcript").records
    seen = {record.kind for record in records if "server" in record.visible_to}
    assert seen == {"start", "hello", "statement", "update", "aggregate"}


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


# -- codebooks start from no data, and noise that only the sum carries ----------------------------------------


def starts_alike(config, markets):
    """Whether clients over two different data sets start from the same codebooks."""
    from fedmm_secure.quantization.build import make_trainer

    found = []
    for flip in (False, True):
        embedding = fit_embedding(markets["m0"], config.embedding)
        if flip:
            embedding.user_factors_ = np.flip(embedding.user_factors_, axis=1).copy()
            embedding.item_factors_ = np.flip(embedding.item_factors_, axis=1).copy()
        trainer = make_trainer(config, embedding, 0)
        found.append(trainer.model.global_codebook.codewords.detach().clone())
    return torch.equal(*found)


def test_codebooks_start_from_no_data(tiny_markets):
    assert starts_alike(tiny(), tiny_markets)


def test_k_means_initialisation_is_caught(tiny_markets, monkeypatch):
    from sklearn.cluster import KMeans

    from fedmm_secure.quantization import training

    honest = training.QuantizerTrainer.__init__

    def by_k_means(self, model, user_rows, free_rows, settings, private=None):
        honest(self, model, user_rows, free_rows, settings, private)
        with torch.no_grad():
            latent = model.encode(torch.cat([user_rows, free_rows])).numpy()
            centres = KMeans(model.shape.global_codes, n_init=1, random_state=0).fit(latent).cluster_centers_
            model.global_codebook.codewords.copy_(torch.from_numpy(centres))

    monkeypatch.setattr(training.QuantizerTrainer, "__init__", by_k_means)
    assert not starts_alike(tiny(), tiny_markets)


MASKED = {"kind": "masked-ckks"}
DISTRIBUTED = {"epsilon": 8.0, "distributed_noise": True, "quantizer": {"steps_per_round": 1}}


def test_with_distributed_noise_all_markets_take_the_same_step(tiny_markets, tmp_path):
    config = tiny(embedding={"kind": "svd"}, privacy=DISTRIBUTED, aggregation=MASKED)
    models = list(train(config, tiny_markets, tmp_path).values())
    for other in models[1:]:
        assert torch.equal(models[0].global_codebook.codewords, other.global_codebook.codewords)
        assert not torch.equal(models[0].local_codebook.codewords, other.local_codebook.codewords)


def test_with_distributed_noise_the_sum_has_the_full_noise_and_one_update_less(tiny_markets, tmp_path, monkeypatch):
    """Updates are noised gradients; users that never enter a batch leave noise alone in them."""
    monkeypatch.setattr(DPSGDTrainer, "_sample", lambda trainer, sampler: torch.zeros(0, dtype=torch.long))
    config = tiny(
        embedding={"kind": "svd"},
        federation={"rounds": 12, "local_epochs": 1},
        privacy={**DISTRIBUTED, "noise_seed": 3, "quantizer": {"steps_per_round": 1}},
        aggregation=MASKED,
    )
    federation = open_federation(config, tiny_markets, tmp_path)
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    train_federated(federation, 0, embeddings)
    needed = max(plan.noise["quantizer"] for plan in federation.plans.values())

    def values(kind, sender):
        own = PrivateRecord(tmp_path, sender).transcript
        transcript = Transcript(tmp_path / "transcript") if kind == "sum" else own
        found = [transcript.find(kind=kind, stage="quantizer/0", round=r, sender=sender) for r in range(12)]
        return np.concatenate([np.frombuffer(data, "<i8") for data in found]) * federation.plans["m0"].shared.step

    one, total = values("own-update", "m0").std() / needed, values("sum", "server").std() / needed
    # 384 draws each: a standard error of 4 %
    assert one == pytest.approx(2**-0.5, rel=0.15)  # one part of two honest ones, clipping norm 1
    assert total == pytest.approx(1.5**0.5, rel=0.15)  # three parts: full noise once one market has subtracted its own


def test_distributed_noise_without_the_size_of_a_market_is_refused(tiny_markets):
    config = tiny(embedding={"kind": "svd"}, privacy=DISTRIBUTED, aggregation=MASKED)
    with pytest.raises(ConfigError, match="size of market m2 is missing"):
        shared_noise(config, market_sizes(config, ["m0", "m1", "m2"], {"m0": tiny_markets["m0"]}, {"m1": (80, 40)}))


def test_a_market_whose_size_is_not_what_the_bundle_states_is_refused(tiny_markets):
    with pytest.raises(ConfigError, match="m0: the federation's bundle states"):
        market_sizes(tiny(), ["m0", "m1", "m2"], {"m0": tiny_markets["m0"]}, {"m0": (8000, 40)})


def test_with_distributed_noise_a_missing_market_stops_the_round(tiny_markets, tmp_path):
    config = tiny(embedding={"kind": "svd"}, privacy=DISTRIBUTED, aggregation=MASKED)
    federation = open_federation(config, tiny_markets, tmp_path)
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    clients, server = make_clients(federation, 0, embeddings, {}), connect(federation)
    with pytest.raises(CohortTooSmallError, match="2 valid updates, 3 are needed"):
        run_rounds("quantizer/0", 3, clients[:2], server, federation.transcript)
    with pytest.raises(OrderError, match="cohort of 2, 3 are needed"):
        clients[0].state(Order("quantizer/0", 0, 0, ("m0", "m1")))


def test_updates_are_scaled_down_to_the_norm_that_was_agreed_on(tiny_markets, tmp_path):
    config = tiny(aggregation={"kind": "plaintext", "norm": 0.01})
    train(config, tiny_markets, tmp_path)
    scale = config.aggregation.clip / 2**config.aggregation.bits
    own = [PrivateRecord(tmp_path, name).transcript for name in tiny_markets]
    norms = [
        np.linalg.norm(np.frombuffer(transcript.read(record), "<i8") * scale)
        for transcript in own
        for record in transcript.records
    ]
    assert len(norms) == 9
    assert max(norms) <= 0.01 + 1e-4
    assert max(norms) > 0.0099  # it was felt


def test_a_plaintext_server_leaves_out_who_exceeds_the_norm(tiny_markets, tmp_path):
    config = tiny(aggregation={"kind": "plaintext", "norm": 0.01})
    federation = open_federation(config, tiny_markets, tmp_path)
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    clients, server = make_clients(federation, 0, embeddings, {}), connect(federation)
    clients[2].plan = replace(clients[2].plan, norm=None)  # a cheat
    with pytest.raises(CohortTooSmallError, match=r"m2: a norm of .* is above"):
        run_rounds("quantizer/0", 1, clients, server, federation.transcript)


def test_distributed_noise_needs_masks():
    """Who opens one update of ``ckks`` finds a part of the noise; under masks only the sum is ever open."""
    for kind in ("plaintext", "ckks"):
        with pytest.raises(ConfigError, match=r"needs aggregation\.kind: masked-ckks"):
            tiny(embedding={"kind": "svd"}, privacy=DISTRIBUTED, aggregation={"kind": kind})


def test_dates_that_follow_from_everyones_rows_do_not_split_a_private_run():
    tiny(data={"split": "global-date"})
    with pytest.raises(ConfigError, match="global-date takes its dates from all users' rows"):
        tiny(data={"split": "global-date"}, privacy={"epsilon": 8.0})
