"""Trees of somebody else's run: a walk goes where nodes say, and ends nowhere, or in memory of something else.

``fedmm recommend RUN`` ended with SIGSEGV, or not at all: scikit-learn follows what a node says, in compiled code.
"""

import io

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.tree_arrays import Trees
from fedmm_secure.storage.encoding import arrays_bytes
from privacy.foreign import ForeignFileError

ATTACKS = {
    "a cycle, which never ends": {"is_leaf": 0, "left": 0, "right": 0},
    "memory of others": {"is_leaf": 0, "left": 2**31, "right": 2**31},
    "a node of another tree": {"is_leaf": 0, "left": 40, "right": 40},
    "a column far behind the last": {"is_leaf": 0, "feature_idx": 2**28},
    "a column before the first": {"is_leaf": 0, "feature_idx": -(2**40)},
    "a bitset far behind the last": {"is_leaf": 0, "is_categorical": 1, "bitset_idx": 2**31, "feature_idx": 0},
    "a column of numbers as categories": {"is_leaf": 0, "is_categorical": 1, "bitset_idx": 0, "feature_idx": 2},
}


@pytest.fixture(scope="module")
def honest():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.integers(0, 9, (300, 1)), rng.normal(size=(300, 2))], axis=1)
    classifier = HistGradientBoostingClassifier(max_iter=2, categorical_features=[True, False, False])
    return Trees.of(classifier.fit(features, features[:, 1] + (features[:, 0] > 4) > 0)).to_arrays()


def changed(arrays, fields):
    """The arrays with another root of the first tree."""
    found = {name: array.copy() for name, array in arrays.items()}
    for name, value in fields.items():
        found[name][0] = value
    return found


def walked(arrays, row, most=1000):
    """The walk as it is without a look at the nodes: raises where the compiled one reads elsewhere, or goes on."""
    end = arrays["sizes"][0]
    node = 0
    for _ in range(most):
        if node >= end:
            raise IndexError("memory of something else")
        if arrays["is_leaf"][node]:
            return arrays["value"][node]
        feature = arrays["feature_idx"][node]
        if not 0 <= feature < len(row):
            raise IndexError("memory of something else")
        if arrays["is_categorical"][node]:
            if arrays["bitset_idx"][node] >= len(arrays["bitsets"]) or feature >= len(arrays["known"]):
                raise IndexError("memory of something else")
            bits = arrays["bitsets"][arrays["bitset_idx"][node]]
            left = bits[int(row[feature]) // 32] >> (int(row[feature]) % 32) & 1
        else:
            left = row[feature] <= arrays["num_threshold"][node]
        node = int(arrays["left" if left else "right"][node])
    raise TimeoutError("it goes round")


def read(arrays):
    BoostedModel(FeatureSchema(("a",), (9,), ("b", "c")), BoostedChoices(), 0).read(arrays_bytes(arrays), "ctr-0.npz")


def test_a_walk_by_the_nodes_alone_leads_anywhere(honest):
    """The attacks work on a walk that believes them, and an honest tree is walked to its leaf."""
    assert np.isfinite(walked(honest, np.zeros(3)))
    for fields in ATTACKS.values():
        with pytest.raises((IndexError, TimeoutError)):
            walked(changed(honest, fields), np.zeros(3))


@pytest.mark.parametrize("fields", ATTACKS.values(), ids=ATTACKS)
def test_trees_that_lead_elsewhere_are_not_walked(honest, fields):
    read(honest)
    with pytest.raises(ForeignFileError):
        read(changed(honest, fields))


def test_no_object_of_a_file_is_built(honest):
    """A file of another library's trees, or of anything that is pickled, is no archive of plain arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **honest, nodes=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(ForeignFileError):
        BoostedModel(FeatureSchema(("a",), (9,), ("b", "c")), BoostedChoices(), 0).read(buffer.getvalue(), "ctr-0.npz")


@pytest.mark.parametrize("sizes", [[], [0], [2**40], [-1]])
def test_trees_without_a_root_are_not_walked(honest, sizes):
    with pytest.raises(ForeignFileError):
        read({**honest, "sizes": np.array(sizes, dtype=np.int64)})
