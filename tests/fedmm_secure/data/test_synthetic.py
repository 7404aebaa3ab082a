import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.market import interaction_matrix
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.quantization.codes import unit_rows


def recovered(spec):
    """Agreement of item clusters in embedding space with the planted shared prototypes, market by market."""
    found = []
    for planted in synthesize(spec):
        market = planted.market
        matrix = interaction_matrix(market.user, market.item, (market.n_users, market.n_items))
        items = unit_rows(SVDEmbedding(8).fit(matrix).item_factors_[:, 1:]).numpy()
        clusters = KMeans(spec.shared_prototypes, n_init=5, random_state=0).fit_predict(items)
        found.append(normalized_mutual_info_score(planted.shared_prototype, clusters))
    return np.array(found)


def test_planted_shared_structure_is_recoverable_and_absent_when_not_planted():
    size = {"users": 600, "items": 120, "shared_prototypes": 5, "mean_interactions": 20}
    with_structure = recovered(SyntheticSpec(**size, shared_strength=4.0, local_strength=0.0))
    without = recovered(SyntheticSpec(**size, shared_strength=0.0, local_strength=0.0))
    assert (with_structure > 0.5).all()
    assert (without < 0.2).all()


def test_ids_are_disjoint_and_generation_is_reproducible():
    spec = SyntheticSpec(users=50, items=30)
    first, again = synthesize(spec), synthesize(spec)
    everyone = [set(planted.market.user_ids) | set(planted.market.item_ids) for planted in first]
    assert not (everyone[0] & everyone[1]) | (everyone[0] & everyone[2]) | (everyone[1] & everyone[2])
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left.market.item, right.market.item)


def test_popularity_and_activity_are_skewed():
    market = synthesize(SyntheticSpec(users=500, items=100, popularity_exponent=1.0, shared_strength=0.0))[0].market
    counts = np.sort(np.bincount(market.item))[::-1]
    assert counts[:10].sum() > 3 * counts[-10:].sum()
    activity = np.bincount(market.user)
    assert activity.max() > 2.5 * np.median(activity)
