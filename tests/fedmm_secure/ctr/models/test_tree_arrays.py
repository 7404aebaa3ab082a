"""Trees as arrays score as the classifier that they are of, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.averaged import AveragedModel
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.tree_arrays import Trees
from privacy.foreign import ForeignFileError


def fitted(seed=0, categories=2, numbers=2, rows=400):
    rng = np.random.default_rng(seed)
    matrix = np.concatenate([rng.integers(0, 40, (rows, categories)) * 3, rng.normal(size=(rows, numbers))], axis=1)
    label = (matrix[:, 0] % 7 + matrix[:, -1] + rng.normal(size=rows)) > 2.5
    kind = HistGradientBoostingClassifier(
        max_iter=12, min_samples_leaf=5, categorical_features=np.arange(categories + numbers) < categories
    )
    return kind.fit(matrix, label), matrix


@pytest.mark.parametrize(("categories", "numbers"), [(2, 2), (0, 3), (2, 0)])
def test_scores_are_those_of_the_classifier(categories, numbers):
    classifier, seen = fitted(categories=categories, numbers=numbers)
    new = np.random.default_rng(1).integers(-1, 130, seen.shape).astype(np.float64)  # most categories are unknown
    trees = Trees.from_arrays(Trees.of(classifier).to_arrays())
    for matrix in (seen, new):
        np.testing.assert_array_equal(trees.predict(matrix), classifier.predict_proba(matrix)[:, 1])


def test_trees_over_other_columns_do_not_score():
    trees, matrix = Trees.of(fitted()[0]), np.zeros((3, 1))
    with pytest.raises(ValueError, match="columns"):
        trees.predict(matrix)


def model(names=("a", "b"), numbers=("c", "d"), **choices):
    return BoostedModel(FeatureSchema(names, (40,) * len(names), numbers), BoostedChoices(**choices), 0)


def test_a_model_and_an_average_are_what_was_written():
    one, two = model(), model()
    one.trees_, two.trees_ = (Trees.of(fitted(seed)[0]) for seed in (0, 1))
    again, matrix = model(), fitted()[1]
    again.read(one.write(), Path("ctr-0.npz"))
    np.testing.assert_array_equal(again.trees_.predict(matrix), one.trees_.predict(matrix))
    schemas = [one.schema, two.schema]
    average, read = AveragedModel([one, two], schemas), AveragedModel([model(), model()], schemas)
    read.read(average.write(), Path("ctr-0.npz"))
    for kept, found in zip(average.members, read.members, strict=True):
        np.testing.assert_array_equal(kept.trees_.predict(matrix), found.trees_.predict(matrix))


@pytest.mark.parametrize("other", [model(("a",)), model(numbers=()), model(max_iterations=3)])
def test_trees_of_another_model_are_refused(other):
    one = model()
    one.trees_ = Trees.of(fitted()[0])
    with pytest.raises(ForeignFileError, match="another model"):
        other.read(one.write(), Path("ctr-0.npz"))


def test_an_average_s_file_is_no_single_model():
    one = model()
    one.trees_ = Trees.of(fitted()[0])
    average = AveragedModel([one], [one.schema])
    with pytest.raises(ForeignFileError, match="another model"):
        model().read(average.write(), Path("ctr-0.npz"))


ARRAYS, MATRIX = Trees.of(fitted()[0]).to_arrays(), fitted()[1][:50]


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(ARRAYS)),
    place=st.integers(0, 10_000),
    value=st.sampled_from([0, 1, 2, 3, 7, 255, 2**16, 2**31, -1, float("nan")]),
)
def test_arrays_that_were_changed_score_or_are_refused(name, place, value):
    """Whatever a number is changed to, nothing is read outside of the arrays and every walk ends."""
    arrays = {key: array.copy() for key, array in ARRAYS.items()}
    flat = arrays[name].reshape(-1)
    with np.errstate(invalid="ignore"):
        flat[place % len(flat)] = np.array(value, dtype=np.float64).astype(flat.dtype)
    try:
        scores = Trees.from_arrays(arrays).predict(MATRIX)
    except ValueError:
        return
    assert np.isfinite(scores).all()
