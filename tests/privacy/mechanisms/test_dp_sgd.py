import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats

from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from privacy.accounting.events import gaussian_steps
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, HookGradients
from privacy.mechanisms.noise import NoiseSource

SHAPE = QuantizerShape(input_dim=6, hidden_dim=8, latent_dim=4, global_codes=5, local_codes=7)
WEIGHTS = LossWeights(entropy=0.1)


def model():
    return RQVAE(SHAPE, torch.Generator().manual_seed(0))


def rows(n, seed=1):
    return torch.nn.functional.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def loss(net, batch):
    return net(batch, WEIGHTS.temperature).total(WEIGHTS)


def test_per_example_gradients_equal_single_example_backward_passes_codebooks_included():
    net, x = model(), rows(20)
    wrapped = GradSampleModule(net, loss_reduction="sum")
    loss(wrapped, x).sum().backward()
    together = {name: p.grad_sample.clone() for name, p in net.named_parameters()}
    assert {"global_codebook.codewords", "local_codebook.codewords"} <= set(together)
    for index in range(len(x)):
        single = model()
        loss(single, x[index : index + 1]).sum().backward()
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("global_codebook.codewords", "local_codebook.codewords"):
        assert together[name].abs().sum() > 0


def trainer(net, choices, n, *, seed=3, learning_rate=1.0):
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    return DPSGDTrainer(HookGradients(net, loss), optimizer, choices, n, NoiseSource.from_seed(seed))


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def noise_draws(noise_multiplier, clipping_norm=0.5, n=50, rate=0.2, steps=30):
    """Steps on no data move parameters by noise alone; returns them in units of one standard deviation."""
    net = model()
    run = trainer(net, DPSGD(noise_multiplier, clipping_norm, rate), n)
    draws = []
    for _ in range(steps):
        before = flat(net)
        run.steps(torch.zeros(0, 6), 1)
        draws.append((flat(net) - before) * (rate * n) / clipping_norm)
    return torch.cat(draws).numpy()


def noise_p_value(draws, noise_multiplier):
    """Two-sided chi-square test that the standard deviation is what was claimed."""
    total, freedom = float((draws**2).sum()) / noise_multiplier**2, len(draws)
    return 2 * min(stats.chi2.cdf(total, freedom), stats.chi2.sf(total, freedom))


def test_noise_has_the_claimed_scale_on_every_coordinate():
    # false alarm once in 10,000 runs; the seed is fixed
    assert noise_p_value(noise_draws(1.5), 1.5) > 1e-4


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.0])
def test_the_scale_test_catches_too_little_noise(factor):
    assert noise_p_value(noise_draws(1.5 * factor), 1.5) < 1e-4


def test_noise_reaches_every_parameter_codebooks_included():
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    trainer(net, DPSGD(1.0, 1.0, 0.5), 10).steps(torch.zeros(0, 6), 1)
    for name, parameter in net.named_parameters():
        assert (parameter != before[name]).all(), name


def largest_influence(clipping_norm, n=12):
    """Largest change of the summed update when one user is removed, over users; rate 1, no noise."""
    x = torch.cat([rows(n - 1), 50.0 * rows(1, seed=9)])  # one extreme row

    def summed(examples):
        net = model()
        before = flat(net)
        trainer(net, DPSGD(0.0, clipping_norm, 1.0), n).steps(examples, 1)
        return (before - flat(net)) * n

    whole = summed(x)
    return max(float((whole - summed(torch.cat([x[:index], x[index + 1 :]]))).norm()) for index in range(n))


@pytest.mark.parametrize("clipping_norm", [0.1, 1.0])
def test_removing_one_user_moves_the_update_by_at_most_the_clipping_norm(clipping_norm):
    assert largest_influence(clipping_norm) <= clipping_norm * 1.001


def test_the_influence_test_catches_missing_clipping():
    assert largest_influence(1e9) > 1.0


def test_batches_are_poisson_samples():
    sizes = batch_sizes()
    variance = 40 * 0.3 * 0.7
    assert np.mean(sizes) == pytest.approx(12, abs=4 * (variance / 400) ** 0.5)
    # fixed-size batches would have no variance
    assert np.var(sizes) == pytest.approx(variance, rel=0.35)


def test_the_realised_batch_size_does_not_enter_the_update():
    """Dividing by the realised size would make half the users count double."""
    choices = DPSGD(0.0, 1e-3, 1.0)

    def moved(examples):
        net = model()
        before = flat(net)
        trainer(net, choices, 40).steps(examples, 1)
        return float((flat(net) - before).norm())

    x = rows(1).repeat(40, 1)
    assert moved(x[:20]) == pytest.approx(0.5 * moved(x), rel=1e-4)


def test_the_event_is_what_the_steps_do():
    assert gaussian_steps(DPSGD(1.3, 1.0, 0.1).event(25)) == {(1.3, 0.1): 25}


def test_entropy_noise_differs_between_sources_and_says_so():
    left, right = NoiseSource.from_entropy(), NoiseSource.from_entropy()
    assert not left.seeded
    assert not torch.equal(torch.rand(8, generator=left.generator), torch.rand(8, generator=right.generator))
    assert NoiseSource.from_seed(1).seeded


def test_statistics_are_finite_and_bounded():
    found = trainer(model(), DPSGD(1.0, 0.1, 0.5), 40).steps(rows(40), 3)
    assert 0 <= found.clipped_fraction <= 1
    assert 0 < found.signal_to_noise < 10
    assert found.loss > 0


# -- the faults that the checks above must catch, put in on purpose ------------------------------------------


def untouched_by_noise(**trainer_options):
    """Names of the parameters that a step on no data leaves as they were."""
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    share = {dict(net.named_parameters())[name]: value for name, value in trainer_options.items()}
    gradients = HookGradients(net, loss)
    DPSGDTrainer(gradients, optimizer, DPSGD(1.0, 1.0, 0.5), 10, NoiseSource.from_seed(0), share).steps(rows(0), 1)
    return [name for name, parameter in net.named_parameters() if (parameter == before[name]).any()]


def test_noise_omitted_on_one_codebook_is_caught():
    assert untouched_by_noise() == []
    assert untouched_by_noise(**{"global_codebook.codewords": 0.0}) == ["global_codebook.codewords"]


def test_clipping_after_summing_is_caught(monkeypatch):
    def clip_the_sum(self):
        for parameter in self.params:
            parameter.summed_grad = parameter.grad_sample.sum(dim=0)
        norm = torch.stack([p.summed_grad.norm() for p in self.params]).norm()
        for parameter in self.params:  # the sum of twelve users may be as long as twelve clipped users
            parameter.summed_grad *= min(1.0, 12 * self.max_grad_norm / float(norm))

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", clip_the_sum)
    assert largest_influence(0.1) > 0.1 * 1.001


def test_a_codebook_left_out_of_the_clipping_norm_is_caught(monkeypatch):
    honest = DPOptimizer.clip_and_accumulate

    def spare_the_codebook(self):
        codebook = next(p for p in self.params if p.shape == (SHAPE.global_codes, SHAPE.latent_dim))
        kept = codebook.grad_sample.clone()
        honest(self)
        codebook.summed_grad = kept.sum(dim=0)

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", spare_the_codebook)
    assert largest_influence(0.1) > 0.1 * 1.001


def batch_sizes(steps=400):
    sizes = []

    def recording(net, batch):
        sizes.append(len(batch))
        return loss(net, batch)

    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    gradients = HookGradients(net, recording)
    DPSGDTrainer(gradients, optimizer, DPSGD(1.0, 1.0, 0.3), 40, NoiseSource.from_seed(5)).steps(rows(40), steps)
    return sizes


def test_shuffled_batches_of_fixed_size_are_caught(monkeypatch):
    def shuffled(n, generator):
        return torch.randperm(n, generator=generator).double() / n  # below the rate for exactly 12 of 40

    assert np.var(batch_sizes(100)) > 4
    monkeypatch.setattr(torch, "rand", shuffled)
    assert np.var(batch_sizes(100)) == 0


def test_a_part_of_the_noise_where_others_add_the_rest():
    """Three markets' parts of 1/sqrt(3) each add up to the full noise; other parameters carry all of it anyway."""
    draws = {"global_codebook.codewords": [], "encoder.0.weight": []}
    for seed in range(60):
        net = model()
        codebook = net.global_codebook.codewords
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        choices, noise = DPSGD(1.0, 1.0, 0.5), NoiseSource.from_seed(seed)
        DPSGDTrainer(HookGradients(net, loss), optimizer, choices, 2, noise, {codebook: 3**-0.5}).steps(rows(0), 1)
        for name, values in draws.items():
            values.append((dict(net.named_parameters())[name].detach() - before[name]).flatten())
    # false alarm once in 1,000 runs each; the seeds are fixed
    assert noise_p_value(torch.cat(draws["encoder.0.weight"]).numpy(), 1.0) > 1e-3
    assert noise_p_value(torch.cat(draws["global_codebook.codewords"]).numpy(), 3**-0.5) > 1e-3
    parts = torch.stack(draws["global_codebook.codewords"]).reshape(20, 3, -1).sum(dim=1)
    assert noise_p_value(parts.flatten().numpy(), 1.0) > 1e-3
    assert noise_p_value(parts.flatten().numpy(), 3**0.5) < 1e-3  # what full noise from each would have added up to


def test_automatic_clipping_scales_every_gradient_to_about_the_norm():
    x = rows(1).repeat(10, 1)
    net = model()
    before = flat(net)
    choices = DPSGD(0.0, 1e-3, 1.0, "automatic")
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    DPSGDTrainer(HookGradients(net, loss), optimizer, choices, 10, NoiseSource.from_seed(0)).steps(x, 1)
    assert float((flat(net) - before).norm()) == pytest.approx(1e-3, rel=0.02)
