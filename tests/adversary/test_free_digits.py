"""Rows in digits of numbers that verification can compute, and compared to a part in a hundred thousand only."""

import math

import numpy as np
import pytest

from experiments.verification import verify_run
from experiments.verification.equality import ULPS, same_arrays, same_numbers
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.shared_items import public_positions, shared_catalogue
from fedmm_secure.guarantee.statement import STATED_DIGITS, stated
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from tests.conftest import tiny
from tests.fedmm_secure.federation.test_shared_catalogue import DATA
from tests.forgery import Forgery

BITS = 28  # of each value: below a part in a hundred thousand


def smuggle(values, bits):
    """Values whose last digits are the bits."""
    number = bits.reshape(len(values), BITS) @ (1 << np.arange(BITS, dtype=np.uint64))
    return ((values.view(np.uint64) >> np.uint64(BITS) << np.uint64(BITS)) | number).view(np.float64)


def read_off(values):
    low = values.view(np.uint64) & np.uint64((1 << BITS) - 1)
    return ((low[:, None] >> np.arange(BITS, dtype=np.uint64)) & np.uint64(1)).ravel()


def old_check(expected, found):
    return np.allclose(expected, found, atol=1e-9)


@pytest.fixture
def computed():
    return np.random.default_rng(0).gamma(2.0, size=40)


@pytest.fixture
def carrying(computed):
    rows = np.random.default_rng(1).integers(0, 2, len(computed) * BITS).astype(np.uint64)
    found = smuggle(computed, rows)
    assert np.array_equal(read_off(found), rows)  # 1,120 bits of rows in 40 numbers
    return found


def test_rows_in_the_last_digits_of_an_array(computed, carrying):
    assert old_check(computed, carrying)  # the attack works on what it was
    assert not same_arrays(computed, carrying, exact=True)
    assert not same_arrays(computed, carrying, exact=False)
    assert same_arrays(computed, computed.copy(), exact=True)
    assert not same_arrays(computed, np.nextafter(computed, 0.0), exact=True)
    assert same_arrays(computed, np.nextafter(computed, 0.0), exact=False)  # rounding elsewhere


def test_on_another_machine_few_bits_are_free(computed):
    away = [computed + n * np.spacing(computed) for n in range(-2 * ULPS, 2 * ULPS + 1)]
    assert sum(same_arrays(computed, found, exact=False) for found in away) <= 2 * ULPS + 1
    for found in (np.negative(computed * 0), computed.astype("f4"), computed[:-1], computed * np.nan):
        assert not same_arrays(computed * 0, found, exact=False)


def test_rows_in_the_digits_of_an_epsilon():
    epsilon = stated(7.956123456789)
    assert epsilon == 7.9561235
    assert epsilon >= 7.956123456789  # rounded up
    free = [epsilon * (1 + n * 1e-9) for n in range(1, 1000)]
    assert all(math.isclose(epsilon, found, rel_tol=1e-6) for found in free)  # the attack works on what it was
    assert not any(same_numbers(epsilon, found, exact=True) for found in free)
    unit = 10.0 ** (1 - STATED_DIGITS)
    apart = [stated(epsilon + n * unit) for n in range(-500, 500)] + free
    assert 1 < sum(same_numbers(epsilon, found, exact=False) for found in set(apart)) < 200
    assert not same_numbers(0.0, -0.0, exact=True)


def test_where_items_are_in_the_shared_catalogue_is_nobody_s_choice():
    data = tiny(data=DATA).data
    shared, own = shared_catalogue(data), Catalogue.of("synthetic", data.synthetic.item_ids(0))
    right = shared.index(own.items)
    chosen = np.sort(np.random.default_rng(0).permutation(len(shared))[: len(own)])  # bits of rows, if one may choose
    assert (np.diff(chosen) > 0).all()  # all that was asked of positions
    assert np.array_equal(public_positions(data, "m0", own.sha256, chosen), right)
    assert not np.array_equal(chosen, right)


def test_of_a_list_that_comes_with_nothing_the_hash_says_where_items_are():
    data = tiny(data=DATA).data
    shared = shared_catalogue(data)
    right = np.arange(0, len(shared), 2)
    theirs = Catalogue.of("file", shared.items[right].tolist()).sha256
    assert np.array_equal(public_positions(data, "m0", theirs, right), right)
    assert not np.array_equal(public_positions(data, "m0", theirs, right + 1), right + 1)
    assert public_positions(data, "m0", theirs, np.append(right[:-1], -1)) is None  # which says so in a note


def test_factors_of_a_published_matrix_have_no_free_digit(released_copy):
    forged = Forgery(released_copy)
    file = "embedding/0000-publication-m0.bin"
    arrays = dict(read_arrays(forged.read(file)))
    changed = np.nextafter(arrays["factors"], 1.0)
    scale = np.abs(arrays["eigenvalues"]).max()
    gives = arrays["gram"] @ changed, changed * arrays["eigenvalues"]
    assert np.allclose(*gives, atol=1e-6 * scale)  # the attack works on what it was: they are eigenvectors all the same
    forged.replace(file, arrays_bytes({**arrays, "factors": changed}))
    forged.finish(owner=True)
    found = "\n".join(finding.what for finding in verify_run(released_copy))
    assert "factors: not what the published co-occurrence gives for market m0" in found
