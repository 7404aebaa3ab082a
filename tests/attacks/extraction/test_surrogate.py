"""Copies of a service: of one that a table of pairs describes, and of one that answers at random."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from attacks.extraction.surrogate import complete, extract, nearest_answer

ITEMS, USERS = 100, 60


def copies(scores):
    rng = np.random.default_rng(1)
    histories = sparse.csr_array((rng.random((USERS, ITEMS)) < 0.05).astype(float))
    popularity = np.asarray(histories.sum(axis=0)).ravel()
    service = SimpleNamespace(scores=lambda accounts, items: scores(accounts.toarray())[:, items])
    return list(extract(service, histories, np.arange(ITEMS), popularity, np.random.default_rng(0)))


def test_a_service_is_copied_better_with_more_queries_and_wholly_with_all():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ITEMS, 4)) @ rng.normal(size=(4, ITEMS)) + rng.normal(size=ITEMS)
    found = copies(lambda accounts: accounts @ table / np.maximum(accounts.sum(1, keepdims=True), 1))
    assert [(one.accounts, one.budget) for one in found] == [(100, 2), (100, 10), (10, 100), (100, 100)]
    assert all(one.queries == one.accounts * one.budget for one in found)
    few, some, fewer_accounts, everything = (one.fidelity.value for one in found)
    assert everything == pytest.approx(1.0)
    assert found[0].prior.value < few < some < everything
    assert fewer_accounts < everything


def test_a_service_that_answers_at_random_is_not_copied():
    rng = np.random.default_rng(0)
    found = copies(lambda accounts: rng.normal(size=(len(accounts), ITEMS)))
    assert all(abs(one.fidelity.value) < 0.1 for one in found)


def test_holes_of_a_table_of_low_rank_are_filled():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 80))
    known = rng.random(table.shape) < 0.4
    filled = complete(np.where(known, table, np.nan))
    np.testing.assert_allclose(filled[known], table[known])
    assert np.corrcoef(filled[~known], table[~known])[0, 1] > 0.9


def test_an_account_is_answered_by_the_mean_of_its_items():
    held = sparse.csr_array(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    table = np.arange(9.0).reshape(3, 3)
    assert nearest_answer(table, held).tolist() == [[1.5, 2.5, 3.5], [6.0, 7.0, 8.0]]
