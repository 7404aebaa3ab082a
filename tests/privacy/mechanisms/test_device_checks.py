"""What a GPU is measured by before DP-SGD runs there, on devices that fail it and on the real one."""

import numpy as np
import pytest
import torch

from privacy.mechanisms.device_checks import DeviceError, refuse_company, refuse_inexact
from privacy.mechanisms.per_example import equal_slots, padded
from tests.gpu import CUDA, needs_gpu
from tests.privacy.mechanisms.test_factored_sums import clip, gradients, sums, unit_rows

ONE, OTHER, SLOTS = (torch.full((6, 2), 1.0),), (torch.full((6, 2), 3.0),), torch.arange(6)


def test_rows_that_are_computed_alone_pass():
    refuse_company(lambda block: block[0] * 2.0, ONE, OTHER, SLOTS)


@pytest.mark.parametrize("what", ["neighbours", "chance"])
def test_an_example_that_comes_out_otherwise_beside_others_is_refused(what):
    calls = iter(range(9))

    def rows_of(block):
        moved = block[0].mean() if what == "neighbours" else torch.tensor(float(next(calls)))
        return block[0] + 2.0**-20 * moved  # a last bit is enough

    with pytest.raises(DeviceError, match=r"computes an example otherwise beside others.*set device: cpu"):
        refuse_company(rows_of, ONE, OTHER, SLOTS)


@pytest.mark.parametrize("size", [8, 256, 2048])
def test_double_precision_is_exact_here(size):
    refuse_inexact(torch.device("cpu"), size)


def test_products_of_less_than_double_precision_are_refused(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "double", torch.Tensor.float)
    with pytest.raises(DeviceError, match="sums of integers in double precision are not exact; set device: cpu"):
        refuse_inexact(torch.device("cpu"), 256)


def on_gpu(entropy=0.0):
    made = gradients(entropy)
    made._model.to(CUDA)
    return made


@needs_gpu
@pytest.mark.parametrize("size", [8, 256, 2048])
def test_double_precision_is_exact_on_the_gpu(size):
    refuse_inexact(CUDA, size)


@needs_gpu
@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_an_example_has_the_same_integers_on_the_gpu_in_every_slot_and_company(entropy):
    made, x = on_gpu(entropy), unit_rows(300).to(CUDA)
    totals = sums(made, clip(), 256)
    slots = equal_slots(totals.rows, (x,), 256)
    assert len(slots) >= 64
    size = sum(parameter.numel() for parameter in made.parameters)
    draw = np.random.default_rng(0)
    for _ in range(10):
        chosen = torch.from_numpy(draw.permutation(300)[: len(slots) // 2])
        own = slots[torch.from_numpy(np.sort(draw.permutation(len(slots))[: len(chosen)]))]
        together, alone = np.zeros(size, np.int64), np.zeros(size, np.int64)
        totals.add(padded((x,), chosen, 256, own), own, together)
        for index in chosen[:5]:
            totals.add(padded((x,), index[None], 256, slots[:1]), slots[:1], alone)
        rest = np.zeros(size, np.int64)
        totals.add(padded((x,), chosen[5:], 256, slots), slots[: len(chosen) - 5], rest)
        assert np.array_equal(together, alone + rest)  # without five of them, the sum lacks their integers and no more


@needs_gpu
def test_integers_on_the_gpu_meet_the_bound_and_are_nearly_those_of_the_processor():
    x, size = unit_rows(64), 64
    made, there = gradients(), on_gpu()
    n = sum(parameter.numel() for parameter in made.parameters)
    bound = clip()
    found = []
    for gradient, rows in ((made, x), (there, x.to(CUDA))):
        own = np.zeros((len(x), n), np.int64)
        for index in range(len(x)):
            sums(gradient, bound, size).add(padded((rows,), torch.tensor([index]), size), torch.arange(1), own[index])
        found.append(own)
    assert (np.square(found[1]).sum(axis=1) <= bound.bound).all()
    norms = np.linalg.norm(found[0].astype(float), axis=1)
    assert (np.linalg.norm((found[0] - found[1]).astype(float), axis=1) < 0.02 * norms).mean() > 0.95  # but for ties
