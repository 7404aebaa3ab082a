"""A model trains on the device that is configured, and comes back; on a GPU as on the processor."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from attacks.side_by_side.ctr import _epoch
from attacks.side_by_side.modules import SideBySide
from attacks.side_by_side.quantizers import StackedQuantizers
from fedmm_secure import devices
from fedmm_secure.config.choices import DeviceName
from fedmm_secure.ctr.dataset import ExampleSource
from fedmm_secure.ctr.models.networks import NeuralKind
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel, NeuralTraining
from fedmm_secure.devices import chosen_device, deterministic, device_record, training_on
from fedmm_secure.errors import ConfigError
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from fedmm_secure.storage.provenance import computing_kind, machine
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare
from tests.fedmm_secure.ctr.test_models import SCHEMA, examples
from tests.gpu import needs_gpu
from tests.privacy.mechanisms.test_factored_sums import clip, gradients, sums, unit_rows

SHAPE = QuantizerShape(input_dim=8, hidden_dim=16, latent_dim=4, global_codes=6, local_codes=5)
CPU = torch.device("cpu")
TRAIN, VALID = ExampleSource([lambda epoch: examples(0)]), examples(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=1):
    return nn.functional.normalize(torch.randn(n, SHAPE.input_dim, generator=generator(seed)), dim=1)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (chosen_device("auto"), chosen_device("cpu"), devices.devices_here()) == ("cpu", "cpu", ("cpu",))
    with pytest.raises(ConfigError, match=r"^device: cuda: PyTorch finds no GPU here; set device: auto or cpu$"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (chosen_device("auto"), chosen_device("cpu"), chosen_device("cuda")) == ("cuda", "cpu", "cuda")


def test_the_gpu_is_part_of_the_kind_of_machine(monkeypatch):
    before, stated = computing_kind("auto"), machine("cpu")
    assert stated["device"] == device_record("cpu") == "cpu"
    monkeypatch.setattr("fedmm_secure.storage.provenance.device_record", lambda setting: "A GPU 9.0 CUDA 13.0")
    assert machine("auto") == {**stated, "device": "A GPU 9.0 CUDA 13.0"}
    assert computing_kind("auto") != before


ELSEWHERE = torch.device("meta")  # a second device on every machine: it knows shapes and types, and mixes nothing


def test_every_tensor_of_a_quantizers_epochs_is_on_its_device():
    settings = TrainingSettings(batch_size=16)
    trainer = QuantizerTrainer(RQVAE(SHAPE, generator()).to(ELSEWHERE), rows(40), rows(12), settings)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"[Mm]eta tensor"):
        trainer._epochs(rows(40), generator())  # all steps are taken; the loss alone cannot be read there
    state = trainer._optimizer.state[trainer.model.global_codebook.codewords]
    assert int(state["step"]) == settings.local_epochs * 3
    assert state["exp_avg"].device == ELSEWHERE


@pytest.fixture
def plain_adam(monkeypatch):
    """Adam's fused form, another kernel for the same, knows real devices alone."""
    plain = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda groups, lr, fused: plain(groups, lr=lr))


@pytest.fixture
def side_by_side_elsewhere(plain_adam, monkeypatch):
    monkeypatch.setattr("attacks.side_by_side.modules.ready", lambda name: ELSEWHERE)


@pytest.mark.usefixtures("side_by_side_elsewhere")
@pytest.mark.parametrize("shared", [False, True])
def test_every_tensor_of_models_side_by_side_is_on_their_device(shared):
    data = rows(20).expand(3, 20, SHAPE.input_dim)
    stack = StackedQuantizers(TrainingSettings(), RQVAE(SHAPE, generator()), data[0] if shared else data, 3)
    stack.train_round(generator())
    assert {value.device for value in stack._stack.parameters.values()} == {ELSEWHERE}


@pytest.mark.usefixtures("side_by_side_elsewhere")
def test_every_tensor_of_networks_side_by_side_is_on_their_device():
    models = [NeuralModel("deepfm", SCHEMA, NeuralChoices(dim=2, hidden=(4,)), seed) for seed in (0, 1)]
    drawn = [TRAIN.draw(0), TRAIN.draw(0)]
    for model, one in zip(models, drawn, strict=True):
        model.standardise_by(one)
    stack = SideBySide([model.new_network(generator()) for model in models], learning_rate=0.01)
    _epoch(stack, models, drawn, [generator(0), generator(1)])
    assert {value.device for value in stack.parameters.values()} == {ELSEWHERE}


@pytest.mark.usefixtures("plain_adam")
def test_every_tensor_of_a_networks_epoch_is_on_its_device(monkeypatch):
    monkeypatch.setattr("fedmm_secure.ctr.models.neural.ready", lambda name: ELSEWHERE)
    model = NeuralModel("deepfm", SCHEMA, NeuralChoices(dim=2, hidden=(4,)), 0)
    training = NeuralTraining(model, TRAIN)
    training.epoch()
    assert {value.device for value in training.network.parameters()} == {ELSEWHERE}


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_every_tensor_of_an_exact_sum_is_on_its_device(entropy):
    made = gradients(entropy)
    made._model.to(ELSEWHERE)
    losses, layers = made((unit_rows(16).to(ELSEWHERE),))
    norms, fit = sums(made, clip(), 16)._cut(layers)
    totals = [part for layer in layers for part in layer.total(fit)]
    assert {one.device.type for one in (losses, norms, fit, *totals)} == {ELSEWHERE.type}
    assert {one.dtype for one in totals} == {torch.float64}


def trained(device, private):
    model = RQVAE(SHAPE, generator())
    settings = TrainingSettings(device=device)
    choices = PrivateSettings(DPSGD(1.0, 1.0, 0.3), 4) if private else None
    trainer = QuantizerTrainer(model, rows(400), rows(90, seed=2), settings, choices)
    noise = NoiseSource.from_seed(3)
    found = [trainer.train_round(generator(round), warm_up=False, noise=noise.derive(round)) for round in range(2)]
    return trainer, found


@needs_gpu
def test_a_module_and_what_its_optimizer_remembers_go_there_and_come_back():
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    weight = module.weight

    def step(device):
        module(torch.ones(1, 3, device=device)).sum().backward()
        optimizer.step()

    step(CPU)
    for _ in range(2):
        with training_on("cuda", module, optimizer) as device, training_on("cuda", module, optimizer) as within:
            assert module.weight is weight
            assert {weight.device.type, device.type, within.type} == {"cuda"}
            assert optimizer.state[weight]["exp_avg"].device.type == "cuda"
            step(device)
        assert module.weight is weight
        assert {weight.device, optimizer.state[weight]["exp_avg"].device} == {CPU}
        step(CPU)
    assert int(optimizer.state[weight]["step"]) == 5


@needs_gpu
@pytest.mark.parametrize("private", [False, True])
def test_a_quantizer_is_the_same_on_both_devices_within_tolerance(private):
    (cpu, told), (gpu, also) = trained("cpu", private), trained("cuda", private)
    for one, other in zip(cpu.model.parameters(), gpu.model.parameters(), strict=True):
        assert other.device.type == "cpu"
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
    for ours, theirs in zip(told, also, strict=True):
        assert abs(ours.statistics.loss - theirs.statistics.loss) < 1e-2 * abs(ours.statistics.loss)
        assert np.array_equal(ours.spare, theirs.spare)  # noise alone: of the stream cipher, wherever steps are taken


@needs_gpu
def test_canaries_are_sampled_and_added_up_alike_on_both_devices():
    """Their integers follow from public numbers, and noise and coins from the stream cipher: both are the same."""
    found = []
    for device in ("cpu", "cuda"):
        choices = PrivateSettings(DPSGD(1.0, 1.0, 0.3), 4)
        trainer = QuantizerTrainer(
            RQVAE(SHAPE, generator()), rows(400), rows(90), TrainingSettings(device=device), choices
        )
        side = Spare(6, np.array([True, False, True]), crowd=3, sampling=bytes(range(32)))
        found.append(trainer.private_steps(4, NoiseSource.from_seed(3), spare=side).spare)
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], found[0] * 0)


@needs_gpu
@pytest.mark.parametrize("private", [False, True])
def test_a_gpu_gives_the_same_bits_again_also_after_a_resume(private):
    once, again = trained("cuda", private)[0], trained("cuda", private)[0]
    assert all(torch.equal(a, b) for a, b in zip(once.model.parameters(), again.model.parameters(), strict=True))
    halfway = trained("cuda", private)[0]
    resumed = trained("cuda", private)[0]
    resumed.load_state_dict(copy.deepcopy(halfway.state_dict()))
    for trainer in (halfway, resumed):
        trainer.train_round(generator(9), warm_up=False, noise=NoiseSource.from_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(halfway.model.parameters(), resumed.model.parameters(), strict=True))


def network(kind: NeuralKind, device: DeviceName, dropout: float) -> NeuralModel:
    choices = NeuralChoices(device=device, dim=4, hidden=(8,), dropout=dropout, max_epochs=3)
    return NeuralModel(kind, SCHEMA, choices, 0).fit(TRAIN, VALID, TRAIN)


@needs_gpu
@pytest.mark.parametrize("kind", ["logistic", "deepfm", "dcnv2", "autoint", "finalmlp"])
def test_a_network_predicts_the_same_on_both_devices_within_tolerance(kind):
    cpu, gpu = network(kind, "cpu", 0.0), network(kind, "cuda", 0.0)
    assert gpu.network_.bias.device.type == "cpu"
    assert np.abs(cpu.predict(VALID.features) - gpu.predict(VALID.features)).max() < 0.02
    assert abs(cpu.validation_auc_ - gpu.validation_auc_) < 0.01


@needs_gpu
def test_dropout_on_a_gpu_has_a_stream_of_its_own():
    once, again = network("deepfm", "cuda", 0.3), network("deepfm", "cuda", 0.3)
    assert np.array_equal(once.predict(VALID.features), again.predict(VALID.features))
    assert abs(once.validation_auc_ - network("deepfm", "cpu", 0.3).validation_auc_) < 0.05


@needs_gpu
def test_kernels_on_a_gpu_are_deterministic_while_it_trains_and_single_precision_is_that():
    device = devices.ready("cuda")
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic(device):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() == before
