"""Boosted trees: which of those that were grown are kept."""

import numpy as np
from sklearn.metrics import log_loss

from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from tests.fedmm_secure.ctr.test_models import SCHEMA, TRAIN, VALID, examples

CHOICES = BoostedChoices(learning_rate=0.3, patience=5)


def test_trees_after_the_lowest_validation_loss_are_left_out():
    model = BoostedModel(SCHEMA, CHOICES, 0).fit(TRAIN, VALID, None)
    matrix, label = np.column_stack([VALID.features.categories, VALID.features.numbers]), VALID.label
    grown = model._grow(model._classifier(model.iterations_, stop=False), TRAIN.draw(0))
    losses = [log_loss(label, found[:, 1]) for found in grown.staged_predict_proba(matrix)]
    assert len(losses) - CHOICES.patience == 1 + np.argmin(losses) == len(model.trees_.sizes)
    np.testing.assert_allclose(log_loss(label, model.predict(VALID.features)), min(losses))


def test_a_refit_has_as_many_trees_as_were_grown():
    model = BoostedModel(SCHEMA, CHOICES, 0).fit(TRAIN, VALID, ExampleSource([lambda epoch: examples(2, 800)]))
    assert len(model.trees_.sizes) == model.iterations_


def test_where_no_tree_helps_one_is_kept():
    turned = Labelled(VALID.features, 1.0 - VALID.label)
    model = BoostedModel(SCHEMA, CHOICES, 0).fit(TRAIN, turned, None)
    assert len(model.trees_.sizes) == 1
