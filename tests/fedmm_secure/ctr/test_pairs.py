import numpy as np
import pytest
import torch
from scipy import sparse

from fedmm_secure.ctr import pairs
from fedmm_secure.ctr.bags import make_bags
from fedmm_secure.ctr.dataset import Labelled
from fedmm_secure.ctr.features import Features
from fedmm_secure.ctr.pairs import slices_by_weight, sums_of_pairs


@pytest.mark.parametrize("at_a_time", [1, 7, 2**21])
def test_scores_of_pairs_are_those_of_the_whole_product_to_the_last_bit(monkeypatch, at_a_time):
    monkeypatch.setattr(pairs, "_AT_A_TIME", at_a_time)
    rng = np.random.default_rng(0)
    met = rng.random((40, 30)) < 0.4
    met[3] = False
    histories = sparse.csr_array(met.astype(float))
    weights, user, column = rng.normal(size=(30, 12)), rng.integers(0, 40, 500), rng.integers(0, 12, 500)
    whole = np.asarray(histories @ weights, np.float32)
    assert np.array_equal(sums_of_pairs(histories, weights, user, column), whole[user, column])


def test_blocks_cover_everything_and_hold_no_more_than_asked():
    weight = np.array([3, 0, 9, 2, 2, 2, 0, 40, 1])
    found = slices_by_weight(weight, 6)
    assert [place for start, stop in found for place in range(start, stop)] == list(range(len(weight)))
    assert all(weight[start:stop].sum() <= 6 or stop == start + 1 for start, stop in found)
    assert slices_by_weight(weight[:0], 6) == []


def test_bags_are_the_same_however_examples_are_cut_into_parts():
    rng = np.random.default_rng(1)
    user = rng.integers(0, 9, 60)
    examples = Labelled(Features(rng.integers(0, 5, (60, 2)), rng.normal(size=(60, 3))), rng.integers(0, 2, 60) * 1.0)

    def parts(size):
        for start in range(0, 60, size):
            some = slice(start, start + size)
            features = Features(examples.features.categories[some], examples.features.numbers[some])
            yield user[some], Labelled(features, examples.label[some])

    whole = make_bags(10, 5, parts(60))
    for size in (1, 7):
        assert all(map(torch.equal, make_bags(10, 5, parts(size)).tensors(), whole.tensors()))
    assert whole.mask.sum(dim=1).tolist() == np.minimum(np.bincount(user, minlength=10), 5).tolist()
