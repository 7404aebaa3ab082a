"""A head that is nobody's: grown on generated markets, it costs no budget, for no user's row is in it.

A market that joins a run with a budget starts from it. A head of what the others released, and one of noised sums of
their users' examples, are worth no more (docs/utility.md): what a bounded look at others' rows says of features that
name no id, generated markets say as well.
"""

from __future__ import annotations

from fedmm_secure.config import Config, DataConfig, HeadConfig
from fedmm_secure.config.synthetic import SyntheticSpec
from fedmm_secure.data.prepare import prepare_one
from fedmm_secure.heads.examples import head_examples
from fedmm_secure.heads.trees import Head, HeadGrower, fit_head

CHOICES = HeadConfig(trees=60, depth=2)  # deeper trees learn what is true of generated markets alone
LIKED = 4.0  # of the ratings from 1 to 5 that are generated
MARKETS = SyntheticSpec()


def generated_head(asked: DataConfig, markets: SyntheticSpec = MARKETS) -> Head:
    """The head of generated markets: the same for everybody who asks for the same labels and negatives.

    Args:
        asked: whose labels and negatives are taken; nothing else of it is.
        markets: which are generated.
    """
    data = DataConfig(
        synthetic=markets,
        label=asked.label,
        like_threshold=LIKED,
        negatives=asked.negatives,
        negatives_per_positive=asked.negatives_per_positive,
    )
    public = Config(data=data, head=CHOICES)
    parts = [head_examples(prepare_one(data, name).usable(), public) for name in data.names]
    return fit_head(HeadGrower.of(public), parts)
