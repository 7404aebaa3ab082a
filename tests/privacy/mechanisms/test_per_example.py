"""An example's gradient: what a single backward pass gives, and the same to the last bit whoever sits beside it."""

import pytest
import torch

from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.private import bag_loss
from privacy.mechanisms import per_example
from privacy.mechanisms.per_example import FunctionalGradients, equal_slots, padded


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


SHARES = 8  # in each of so many blocks, as many slots hold examples of our own


@pytest.mark.parametrize(("size", "threads"), [(8, 1), (24, 1), (256, 1), pytest.param(256, 2, marks=pytest.mark.long)])
def test_a_gradient_is_the_same_to_the_last_bit_in_every_slot_and_beside_anybody(size, threads):
    """What exact sums rest on: the difference that one example makes is its own integers, and nothing of others'."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(size)
        make, draw = bag_case(size, generator)
        examples = draw(5)
        reference = [gradients_of(make, padded(examples, torch.tensor([index]), size))[0] for index in range(5)]
        for share in range(SHARES):  # with neighbours, and with empty slots from some place on
            neighbours, filled = draw(size), int(torch.randint(0, size + 1, (), generator=generator))
            slots = torch.arange(share, size, SHARES)
            block = []
            for own, others in zip(examples, neighbours, strict=True):
                part = others.clone()
                part[filled:] = 0
                part[slots] = own[slots % 5]
                block.append(part)
            found = gradients_of(make, tuple(block))
            for slot in slots.tolist():
                assert torch.equal(found[slot], reference[slot % 5]), slot
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


def one_score(block):
    return torch.sigmoid(block[0].sum(dim=1, keepdim=True))


def slots_that_round_otherwise(rows_of, size, slots):
    """Of the slots, those in which some example comes out otherwise than in the first one."""
    examples, found = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)), set()
    for example in examples:
        words = rows_of((example.expand(size, 5).clone(),)).view(torch.int32)[slots]
        found |= set(slots[(words != words[0]).any(dim=1)].tolist())
    return found


def test_what_kernels_leave_over_of_a_block_is_not_used(monkeypatch):
    """Too few values are rounded otherwise there for probes to show: as it was, such slots were used."""
    like, size = (torch.zeros(1, 5),), 40
    slots = equal_slots(one_score, like, size)
    assert slots.tolist() == list(range(32))
    assert slots_that_round_otherwise(one_score, size, slots) == set()
    monkeypatch.setattr(per_example, "LANES", 1)
    as_it_was = equal_slots(one_score, like, size)
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":  # where kernels take several numbers at a time
        assert slots_that_round_otherwise(one_score, size, as_it_was)


def test_where_no_two_slots_are_alike_nothing_is_trained():
    with pytest.raises(RuntimeError, match="would depend on others"):
        equal_slots(lambda block: torch.arange(64.0)[:, None], (torch.zeros(1, 4),), 64)
