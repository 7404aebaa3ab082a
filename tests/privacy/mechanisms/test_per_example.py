"""An example's gradient: what a single backward pass gives, and the same to the last bit whoever sits beside it."""

import pytest
import torch
from opacus import GradSampleModule

from fedmm_secure.ctr.neural import NeuralCTR
from fedmm_secure.ctr.private import bag_loss
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from privacy.mechanisms.per_example import FunctionalGradients, HookGradients, equal_slots, padded

WEIGHTS = LossWeights(entropy=0.1)


def model(shape):
    return RQVAE(shape, torch.Generator().manual_seed(0))


def loss(net, batch):
    return net(batch, WEIGHTS.temperature).total(WEIGHTS)


def unit_rows(n, dim, generator):
    return torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)


def test_per_example_gradients_equal_single_example_backward_passes_codebooks_included():
    shape = QuantizerShape(input_dim=6, hidden_dim=8, latent_dim=4, global_codes=5, local_codes=7)
    net, x = model(shape), unit_rows(20, 6, torch.Generator().manual_seed(1))
    wrapped = GradSampleModule(net, loss_reduction="sum")
    loss(wrapped, x).sum().backward()
    together = {name: p.grad_sample.clone() for name, p in net.named_parameters()}
    assert {"global_codebook.codewords", "local_codebook.codewords"} <= set(together)
    for index in range(len(x)):
        single = model(shape)
        loss(single, x[index : index + 1]).sum().backward()
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("global_codebook.codewords", "local_codebook.codewords"):
        assert together[name].abs().sum() > 0


def test_a_block_holds_the_chosen_examples_and_zeros():
    left, right = padded((torch.arange(12.0).reshape(6, 2), torch.arange(6)), torch.tensor([4, 1]), 3)
    assert left.tolist() == [[8, 9], [2, 3], [0, 0]]
    assert right.tolist() == [4, 1, 0]


def gradients_of(make, block):
    made = make()
    for parameter in made.parameters:
        parameter.grad = parameter.grad_sample = None
    made(block)
    return torch.cat([parameter.grad_sample.flatten(1) for parameter in made.parameters], dim=1).clone()


def rqvae_case(size, generator):
    # sizes of the shipped configurations
    net = model(QuantizerShape(input_dim=8, global_codes=32, local_codes=32))
    made = HookGradients(net, loss)
    return lambda: made, lambda n: (unit_rows(n, 8, generator),)


def bag_case(size, generator):
    network = NeuralCTR("deepfm", (32, 32, 32, 32), 11, dim=8, hidden=(32, 16), dropout=0.0, generator=generator)
    made = FunctionalGradients(network, bag_loss)

    def bags(n):
        mask = (torch.arange(10) < torch.randint(0, 11, (n, 1), generator=generator)).float()
        return (
            torch.randint(0, 32, (n, 10, 4), generator=generator) * mask[..., None].long(),
            torch.randn(n, 10, 11, generator=generator) * mask[..., None],
            torch.randint(0, 2, (n, 10), generator=generator).float() * mask,
            mask,
        )

    return lambda: made, bags


@pytest.mark.parametrize(("size", "threads", "stride"), [(8, 1, 1), (24, 1, 1), (256, 1, 1), (256, 2, 37)])
@pytest.mark.parametrize("case", [rqvae_case, bag_case])
def test_a_gradient_is_the_same_to_the_last_bit_in_every_slot_and_beside_anybody(case, size, threads, stride):
    """What exact sums rest on: the difference that one example makes is its own integers, and nothing of others'."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(size)
        make, draw = case(size, generator)
        examples = draw(5)
        reference = [gradients_of(make, padded(examples, torch.tensor([index]), size))[0] for index in range(5)]
        for slot in range(0, size, stride):  # with neighbours, and with empty slots from some place on
            neighbours, filled = draw(size), int(torch.randint(0, size + 1, (), generator=generator))
            block = []
            for own, others in zip(examples, neighbours, strict=True):
                part = others.clone()
                part[filled:] = 0
                part[slot] = own[slot % 5]
                block.append(part)
            found = gradients_of(make, tuple(block))[slot]
            assert torch.equal(found, reference[slot % 5]), slot
    finally:
        torch.set_num_threads(before)


def rounds_the_last_otherwise(block):
    """A stand-in for linear algebra whose last rows take another path: one of five differs by the last bit."""
    rows = block[0].sum(dim=1, keepdim=True) + 1.0
    rows[-1] = torch.nextafter(rows[-1], torch.tensor(9.0))
    return rows


def test_only_slots_that_treat_an_example_alike_are_used():
    like = (torch.zeros(1, 4), torch.zeros(1, 2, dtype=torch.long))
    assert equal_slots(rounds_the_last_otherwise, like, 5).tolist() == [0, 1, 2, 3]
    assert equal_slots(lambda block: block[0], like, 5).tolist() == [0, 1, 2, 3, 4]
    (block, _) = padded((torch.ones(3, 4), torch.ones(3, 2)), torch.tensor([2, 0]), 5, torch.tensor([1, 3, 4]))
    assert block.sum(dim=1).tolist() == [0, 4, 0, 4, 0]


def test_where_no_two_slots_are_alike_nothing_is_trained():
    with pytest.raises(RuntimeError, match="would depend on others"):
        equal_slots(lambda block: torch.arange(64.0)[:, None], (torch.zeros(1, 4),), 64)
