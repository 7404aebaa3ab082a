"""Gradients that are never written out: their integers, against outer products that are."""

import numpy as np
import pytest
import torch
from opacus import GradSampleModule

from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import factored_gradients
from privacy.mechanisms.clipped_sums import Clip, ParameterSplit
from privacy.mechanisms.factored_sums import FactoredGradients, FactoredSums, LinearGradient
from privacy.mechanisms.per_example import equal_slots, padded

SHAPE = QuantizerShape(input_dim=6, hidden_dim=8, latent_dim=4, global_codes=5, local_codes=7)


def unit_rows(n, dim=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)


def gradients(entropy=0.0, shape=SHAPE):
    weights = LossWeights(entropy=entropy)
    net = RQVAE(shape, torch.Generator().manual_seed(0))
    return factored_gradients(net, lambda model, x: model(x, weights.soft_temperature).total(weights), weights)


def sums(made, clip, block, shared=()):
    return FactoredSums(made, clip, ParameterSplit.of(made.parameters, shared), block)


def clip(norm=0.5, step=2.0**-17, parts=1, shared_step=2.0**-17, clipping="flat"):
    return Clip(norm, clipping, step, shared_step, parts, int(parts * (norm / step) ** 2))


def written_out(made, clip, x, shared=()):
    """Integers ``(n, n_parameters)`` of each example by itself, as outer products."""
    size = sum(parameter.numel() for parameter in made.parameters)
    found = np.zeros((len(x), size), np.int64)
    for index in range(len(x)):
        sums(made, clip, 8, shared).add(padded((x,), torch.tensor([index]), 8), torch.arange(1), found[index])
    return found


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_gradients_are_those_of_opacus_to_eight_bits_of_a_layers_inputs(entropy):
    made, x = gradients(entropy), unit_rows(30)
    weights = LossWeights(entropy=entropy)
    wrapped = GradSampleModule(RQVAE(SHAPE, torch.Generator().manual_seed(0)), loss_reduction="sum")
    wrapped(x, weights.soft_temperature).total(weights).sum().backward()
    expected = torch.cat([parameter.grad_sample.flatten(1) for parameter in wrapped.parameters()], dim=1).double()
    step = 2.0**-22
    wide = clip(norm=64.0, step=step)  # nothing is clipped
    found = torch.from_numpy(written_out(made, wide, x) * step)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) < 2.0**-7


@pytest.mark.parametrize("entropy", [0.0, 0.1])
@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_integers_of_one_example_are_never_longer_than_the_bound(entropy, clipping):
    made = gradients(entropy)
    x = torch.cat([unit_rows(20), 1e4 * unit_rows(10, seed=2), 1e-6 * unit_rows(5, seed=3), torch.zeros(1, 6)])
    for parts, shared_step in ((1, 2.0**-17), (3, 2.0**-16)):
        limits = clip(parts=parts, shared_step=shared_step, clipping=clipping)
        shared = [made.parameters[-2]]
        n_shared = shared[0].numel()
        lengths = []
        for row in written_out(made, limits, x, shared):
            local, handed = row[:-n_shared], row[-n_shared:]
            lengths.append(parts * sum(int(v) ** 2 for v in local) + sum(int(v) ** 2 for v in handed))
        assert max(lengths) <= limits.bound
        assert max(lengths) >= 0.9 * limits.bound


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_a_sum_is_that_of_its_examples_integers_whatever_the_neighbours(entropy):
    made, limits, x = gradients(entropy), clip(), torch.cat([unit_rows(50), 9.0 * unit_rows(6, seed=5)])
    single = written_out(made, limits, x)
    for chosen in (torch.arange(56), torch.arange(7, 56), torch.randperm(56, generator=torch.Generator())[:20]):
        total = np.zeros(single.shape[1], np.int64)
        sums(made, limits, 64).add(padded((x,), chosen, 64), torch.arange(len(chosen)), total)
        np.testing.assert_array_equal(total, single[chosen.numpy()].sum(axis=0))


@pytest.mark.parametrize("size", [24, 256, 2048])
def test_what_integers_follow_from_is_the_same_to_the_last_bit_in_every_used_slot(size):
    made = gradients(shape=QuantizerShape(input_dim=8, global_codes=32, local_codes=32))
    whole, x = sums(made, clip(), size), unit_rows(size, 8)
    slots = equal_slots(whole.rows, (x,), size)
    reference = whole.rows(padded((x,), torch.tensor([3]), size, slots))[slots[0]]
    for place in (0, len(slots) // 3, len(slots) - 1):
        order = torch.roll(torch.arange(len(slots)), 1 + place)
        order[place] = 3
        for chosen in (order, order[: place + 1]):
            assert torch.equal(whole.rows(padded((x,), chosen, size, slots))[slots[place]], reference)


def test_an_example_that_is_not_made_of_numbers_counts_as_absent_and_harms_nobody():
    made, limits, good = gradients(), clip(), unit_rows(3)
    alone = np.zeros(sum(p.numel() for p in made.parameters), np.int64)
    sums(made, limits, 8).add(padded((good,), torch.arange(3), 8), torch.arange(3), alone)
    assert alone.any()
    for broken in (float("nan"), float("inf"), 3e38):
        x = torch.cat([good, torch.full((1, 6), broken)])
        total = np.zeros_like(alone)
        sums(made, limits, 8).add(padded((x,), torch.arange(4), 8), torch.arange(4), total)
        np.testing.assert_array_equal(total, alone)


def test_inputs_that_are_cut_to_another_length_than_the_norm_saw_break_the_bound(monkeypatch):
    """The fault: lengths are those before the cut. The exact check takes the examples out."""

    class Careless(LinearGradient):
        def squares(self):
            return super().squares() * 0.25

    net = torch.nn.Linear(6, 3)
    x = unit_rows(4)

    def total_of(rule):
        made = FactoredGradients(net, lambda model, rows: model(rows).square().sum(1) * 100, {torch.nn.Linear: rule})
        total = np.zeros(21, np.int64)
        sums(made, clip(), 8).add(padded((x,), torch.arange(4), 8), torch.arange(4), total)
        return total

    assert total_of(LinearGradient).any()
    assert not total_of(Careless).any()


def test_a_layer_without_a_rule_or_called_twice_is_refused():
    with pytest.raises(ValueError, match=r"no rule .* Bilinear"):
        FactoredGradients(torch.nn.Bilinear(2, 2, 1), lambda model, x: model(x, x), {torch.nn.Linear: LinearGradient})
    net = torch.nn.Linear(6, 6)
    made = FactoredGradients(net, lambda model, x: model(model(x)).sum(1), {torch.nn.Linear: LinearGradient})
    with pytest.raises(ValueError, match="called twice"):
        made((unit_rows(2),))


def test_ordinary_steps_are_left_alone():
    made = gradients()
    made((unit_rows(5),))
    assert all(parameter.grad is None for parameter in made.parameters)
