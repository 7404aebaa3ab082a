import numpy as np
import pytest
import torch
from scipy import stats

from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import factored_gradients
from privacy.accounting.events import gaussian_steps
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, SharedGroup
from privacy.mechanisms.factored_sums import FactoredSums
from privacy.mechanisms.per_example import LANES
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.sampling import PoissonSampler
from tests.noise import silent

SHAPE = QuantizerShape(input_dim=6, hidden_dim=8, latent_dim=4, global_codes=5, local_codes=7)
WEIGHTS = LossWeights(entropy=0.1)


def model():
    return RQVAE(SHAPE, torch.Generator().manual_seed(0))


def rows(n, seed=1):
    return torch.nn.functional.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def loss(net, batch):
    return net(batch, WEIGHTS.temperature).total(WEIGHTS)


def trainer(net, choices, n, *, learning_rate=1.0, shared=None):
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    return DPSGDTrainer(factored_gradients(net, loss, WEIGHTS), optimizer, choices, n, shared)


def source(seed=3):
    return NoiseSource.from_seed(seed)


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def noise_draws(noise_multiplier, clipping_norm=0.5, n=50, rate=0.2, steps=30):
    """Steps on no data move parameters by noise alone; returns them in units of one standard deviation."""
    net = model()
    run = trainer(net, DPSGD(noise_multiplier, clipping_norm, rate), n)
    draws = []
    for step in range(steps):
        before = flat(net)
        run.steps(torch.zeros(0, 6), 1, source(step))
        draws.append((flat(net) - before) * (rate * n) / clipping_norm)
    return torch.cat(draws).numpy()


def noise_p_value(draws, noise_multiplier):
    """Two-sided chi-square test that the standard deviation is what was claimed."""
    total, freedom = float((draws**2).sum()) / noise_multiplier**2, len(draws)
    return 2 * min(stats.chi2.cdf(total, freedom), stats.chi2.sf(total, freedom))


def test_noise_has_the_claimed_scale_on_every_coordinate():
    # false alarm once in 10,000 runs; the seeds are fixed
    assert noise_p_value(noise_draws(1.5), 1.5) > 1e-4


@pytest.mark.parametrize("factor", [0.5, 0.9])
def test_the_scale_test_catches_too_little_noise(factor):
    assert noise_p_value(noise_draws(1.5 * factor), 1.5) < 1e-4


def untouched_by_noise(shared=False):
    """Names of the parameters that a step on no data leaves as they were."""
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    group = SharedGroup(net.global_codebook.codewords, 1e-6, 2) if shared else None
    trainer(net, DPSGD(1.0, 1.0, 0.5), 10, shared=group).steps(torch.zeros(0, 6), 1, source())
    return [name for name, parameter in net.named_parameters() if (parameter == before[name]).any()]


def test_noise_reaches_every_parameter_codebooks_included():
    assert untouched_by_noise() == []
    assert untouched_by_noise(shared=True) == ["global_codebook.codewords"]  # handed out, not applied


def test_one_source_gives_one_computation_and_another_gives_another():
    found = []
    for seed in (1, 1, 2):
        net = model()
        steps = trainer(net, DPSGD(1.0, 1.0, 0.5), 40).steps(rows(40), 3, source(seed), spare=5)
        found.append((flat(net), steps.spare))
    assert torch.equal(found[0][0], found[1][0])
    assert (found[0][1] == found[1][1]).all()
    assert not torch.equal(found[0][0], found[2][0])
    assert found[0][1].shape == (3, 5)


def summed_update(examples, clipping_norm, n, clipping="flat", block=256):
    """What one step on everybody adds up to, without noise, in units of the gradient."""
    net = model()
    before = flat(net)
    with silent():
        trainer(net, DPSGD(1.0, clipping_norm, 1.0, clipping, block), n).steps(examples, 1, source())
    return (before - flat(net)) * n


def largest_influence(clipping_norm, n=12):
    """Largest change of the summed update when one user is removed, over users; rate 1, no noise."""
    x = torch.cat([rows(n - 1), 50.0 * rows(1, seed=9)])  # one extreme row
    whole = summed_update(x, clipping_norm, n)
    without = (summed_update(torch.cat([x[:index], x[index + 1 :]]), clipping_norm, n) for index in range(n))
    return max(float((whole - less).norm()) for less in without)


@pytest.mark.parametrize("clipping_norm", [0.1, 1.0])
def test_removing_one_user_moves_the_update_by_at_most_the_clipping_norm(clipping_norm):
    assert largest_influence(clipping_norm) <= clipping_norm * 1.001


def test_the_influence_test_catches_missing_clipping():
    assert largest_influence(1e3) > 1.0


def test_automatic_clipping_scales_every_gradient_to_about_the_norm():
    moved = summed_update(rows(1).repeat(10, 1), 1e-3, 10, "automatic")
    assert float(moved.norm()) / 10 == pytest.approx(1e-3, rel=0.02)


def test_clipped_sums_are_what_single_backward_passes_add_up_to():
    """Independent of blocks, hooks and grids: one example at a time, clipped in double precision."""
    x, norm = torch.cat([rows(20), 30.0 * rows(3, seed=4)]), 0.4
    expected = torch.zeros(flat(model()).numel(), dtype=torch.float64)
    for row in x:
        single = model()
        loss(single, row[None]).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in single.parameters()]).double()
        expected += gradient * min(1.0, norm / float(gradient.norm()))
    for block in (8, 256):
        moved = summed_update(x, norm, len(x), block=block).double()
        # what goes into a layer is cut to eight bits: far less than the noise of any step
        assert float((moved - expected).norm()) < 0.01 * float(expected.norm())


def test_the_realised_batch_size_does_not_enter_the_update():
    """Dividing by the realised size would make half the users count double."""
    x = rows(1).repeat(40, 1)
    half, whole = (float(summed_update(x[:size], 1e-3, 40).norm()) for size in (20, 40))
    assert half == pytest.approx(0.5 * whole, rel=1e-4)


def test_the_event_is_what_the_steps_do():
    assert gaussian_steps(DPSGD(1.3, 1.0, 0.1).event(25)) == {(1.3, 0.1): 25}


def test_blocks_follow_from_public_numbers_and_mostly_hold_a_batch():
    choices = DPSGD(1.0, 1.0, 0.2)
    for n_examples in (1, 40, 1000, 5120, 60_000):
        block, expected = choices.block(n_examples, 256), choices.expected_batch(n_examples)
        assert block % LANES == 0
        assert block <= 256
        assert -(-(expected + 3 * expected**0.5) // block) * block >= expected + 3 * expected**0.5


def test_statistics_are_finite_and_bounded():
    found = trainer(model(), DPSGD(1.0, 0.1, 0.5), 40).steps(rows(40), 3, source()).statistics
    assert 0 <= found.clipped_fraction <= 1
    assert 0 < found.signal_to_noise < 10
    assert found.loss > 0


def test_the_signal_to_noise_ratio_is_that_of_sums_and_noise():
    found = trainer(model(), DPSGD(2.0, 0.1, 1.0), 40).steps(rows(1).repeat(40, 1), 1, source()).statistics
    size = flat(model()).numel()
    assert found.signal_to_noise == pytest.approx(40 * 0.1 / (2.0 * 0.1 * size**0.5), rel=0.02)


# -- integers ------------------------------------------------------------------------------------------------


class Chosen:
    """Gradients as the test wants them, one row an example."""

    def __init__(self, size):
        self.parameters = [torch.nn.Parameter(torch.zeros(size)), torch.nn.Parameter(torch.zeros(size))]

    def __call__(self, batch):
        left, right = batch[0].chunk(2, dim=1)
        for parameter, part in zip(self.parameters, (left, right), strict=True):
            parameter.grad_sample = part.clone()
        return torch.zeros(len(left))


def integer_sums(gradients, choices, shared_step=None, parts=1):
    """Noised sums of one step on all examples, without noise, in grid units: local, then shared."""
    chosen = Chosen(gradients.shape[1] // 2)
    optimizer = torch.optim.SGD(chosen.parameters, lr=0.0)
    group = None if shared_step is None else SharedGroup(chosen.parameters[1], shared_step, parts)
    run = DPSGDTrainer(chosen, optimizer, choices, len(gradients), group)
    seen = []
    run._set_gradients = seen.append
    with silent():
        found = run.steps(gradients, 1, source())
    return seen[0], found.shared[0]


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 7.7, 40.0])
def test_integers_of_one_example_are_never_longer_than_the_noise_admits(clipping, noise_multiplier):
    """Exactly: squares of Python's integers against the bound that the noise multiplier gives."""
    rng, choices = np.random.default_rng(0), DPSGD(noise_multiplier, 0.37, 1.0, clipping)
    bound = (scale(2) / noise_multiplier) ** 2
    lengths = []
    for kind in range(30):
        row = rng.normal(size=6) * 10.0 ** rng.integers(-9, 9) if kind % 2 else np.eye(6)[kind % 6] * 1e6
        local, _ = integer_sums(torch.tensor(row[None], dtype=torch.float32), choices)
        lengths.append(sum(int(value) ** 2 for value in local))
    assert max(lengths) <= bound
    assert max(lengths) >= 0.98 * bound


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_shared_group_keeps_the_joint_bound_at_the_sum_of_the_honest_parts(parts):
    """In units of the noise that the sum carries: local integers over S, shared ones over sqrt(parts) S."""
    rng, own, most = np.random.default_rng(1), 1.3, 2.1  # this party's multiplier, and the most sensitive party's
    step = SharedGroup.step_for(most, 0.5, parts)
    assert step * parts**0.5 * scale(2) == pytest.approx(most * 0.5)  # what the sum of all honest noise amounts to
    lengths = []
    for index in range(40):
        row = rng.normal(size=8) * 100.0
        row[: 4 if index % 2 else 0] *= 1e-3  # now and then all of it is shared
        local, shared = integer_sums(torch.tensor(row[None]).float(), DPSGD(own, 0.5, 1.0), step, parts)
        lengths.append(parts * sum(int(v) ** 2 for v in local) + sum(int(v) ** 2 for v in shared))
    assert max(lengths) <= parts * (scale(2) / own) ** 2
    # where nothing is shared out, the whole of the own bound is used
    local, _ = integer_sums(torch.tensor([[9.0, 0, 0, 0, 0, 0, 0, 0]]), DPSGD(own, 0.5, 1.0), step, parts)
    assert int(local[0]) == pytest.approx(scale(2) / own, rel=1e-5)


def test_a_gradient_that_is_not_made_of_numbers_counts_as_absent_and_harms_nobody():
    good = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    alone, _ = integer_sums(good, DPSGD(1.0, 1.0, 1.0))
    for broken in (float("nan"), float("inf"), -float("inf")):
        both = torch.cat([torch.tensor([[0.0, broken, 0.0, 1.0]]), good])
        np.testing.assert_array_equal(integer_sums(both, DPSGD(1.0, 1.0, 1.0))[0], alone)


def test_an_integer_vector_that_breaks_the_bound_is_dropped_by_itself(monkeypatch):
    """The fault: gradients are scaled a thousandth too far; the exact check takes the example out."""
    monkeypatch.setattr("privacy.mechanisms.clipped_sums.SHRINK", 1.001)
    long, short = torch.tensor([[30.0, 0, 0, 0]]), torch.tensor([[0.1, 0.2, 0.0, 0.1]])
    assert (integer_sums(long, DPSGD(1.0, 1.0, 1.0))[0] == 0).all()
    together, _ = integer_sums(torch.cat([long, short]), DPSGD(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(together, integer_sums(short, DPSGD(1.0, 1.0, 1.0))[0])


def test_sums_are_exact_whatever_the_order_and_the_neighbours():
    """Every example's own integers, added up by Python: whoever leaves takes exactly its own along."""
    gradients = torch.randn(700, 6, generator=torch.Generator().manual_seed(0))
    choices = DPSGD(1.1, 0.8, 1.0, largest_block=64)
    single = np.stack([integer_sums(row[None], choices)[0] for row in gradients[:100]])
    whole, _ = integer_sums(gradients, choices)
    rest, _ = integer_sums(gradients[100:], choices)
    np.testing.assert_array_equal(whole - rest, single.sum(axis=0))
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(integer_sums(gradients[order], choices)[0], whole)


def test_too_little_noise_for_exact_sums_is_refused():
    with pytest.raises(ValueError, match="too small"):
        trainer(model(), DPSGD(1e-3, 1.0, 0.5), 10)


# -- Poisson samples -----------------------------------------------------------------------------------------


def batch_sizes(steps=400):
    """How many examples enter each of many steps: constant gradients, counted in the noiseless sum."""
    run = trainer(model(), DPSGD(1.0, 1.0, 0.3), 40)
    sampler = PoissonSampler(0.3, [(source(5).derive("sampling"), 40)])
    return [len(run._sample(sampler)) for _ in range(steps)]


def test_batches_are_poisson_samples():
    sizes = batch_sizes()
    variance = 40 * 0.3 * 0.7
    assert np.mean(sizes) == pytest.approx(12, abs=4 * (variance / 400) ** 0.5)
    # fixed-size batches would have no variance
    assert np.var(sizes) == pytest.approx(variance, rel=0.35)


def test_shuffled_batches_of_fixed_size_are_caught(monkeypatch):
    def shuffled(self, probability, count):
        return np.argsort(np.argsort(self.words(count))) < probability * count  # true for exactly 12 of 40

    assert np.var(batch_sizes(100)) > 4
    monkeypatch.setattr(NoiseSource, "coins", shuffled)
    assert np.var(batch_sizes(100)) == 0


# -- the faults that the checks above must catch, put in on purpose ------------------------------------------


def test_a_codebook_left_out_of_the_clipping_norm_is_caught():
    from attacks.auditing.faults import unclipped

    with unclipped(lambda value: tuple(value.shape) == (SHAPE.global_codes, SHAPE.latent_dim)):
        assert largest_influence(0.1) > 0.1 * 1.001


def test_clipping_after_summing_is_caught(monkeypatch):
    def clip_the_sum(self, block, slots, total):
        _, layers = self._gradients(block)
        kept = torch.zeros(self._block, dtype=torch.bool)
        kept[slots] = True
        for layer in layers:
            layer.cut(torch.full((self._block,), 1e6))
        parts = [part.flatten() / 1e6 for layer in layers for part in layer.total(kept)]
        # the sum of twelve users may be as long as twelve clipped users
        factor = min(1.0, 12 * self._clip.norm / float(torch.cat(parts).norm()))
        for layer in layers:
            for parameter, part in zip(layer.parameters, layer.total(kept), strict=True):
                units = part.flatten().numpy() / 1e6 * factor / self._clip.step
                total[self._place[parameter]] += units.astype(np.int64)
        return 0.0, 0

    monkeypatch.setattr(FactoredSums, "add", clip_the_sum)
    assert largest_influence(0.1) > 0.1 * 1.001


def test_parts_of_the_noise_add_up_where_others_add_the_rest():
    """Three parties' parts add up to the noise of the most sensitive; other parameters carry all of their own."""
    step = SharedGroup.step_for(2.0, 1.0, 3)
    parts, whole = [], []
    for seed in range(60):
        net = model()
        before = net.encoder[0].weight.detach().clone()
        group = SharedGroup(net.global_codebook.codewords, step, 3)
        found = trainer(net, DPSGD(1.0, 1.0, 0.5), 2, shared=group).steps(torch.zeros(0, 6), 1, source(seed))
        parts.append(found.shared[0])
        whole.append((net.encoder[0].weight.detach() - before).flatten())
    assert noise_p_value(torch.cat(whole).numpy(), 1.0) > 1e-3  # false alarm once in 1,000; the seeds are fixed
    sums = np.stack(parts).reshape(20, 3, -1).sum(axis=1).ravel() * step
    assert noise_p_value(sums, 2.0) > 1e-3
    assert noise_p_value(sums, 1.0) < 1e-3
