"""One user's examples as one bag: the unit that user-level DP-SGD clips and samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm_secure.ctr.dataset import Labelled
from fedmm_secure.data.market import IntArray


@dataclass(frozen=True)
class Bags:
    """Padded bags, one a user of the market: ``(n_users, width, …)``; ``mask`` is 1 where there is an example."""

    categories: Tensor
    numbers: Tensor
    label: Tensor
    mask: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Categories, numbers, labels and mask, one row a user: what a step of DP-SGD takes."""
        return self.categories, self.numbers, self.label, self.mask


def make_bags(n_users: int, width: int, parts: Iterable[tuple[IntArray, Labelled]]) -> Bags:
    """Gather examples by user; parts are (user of each example ``(n,)``, examples), one held at a time.

    A bag holds its user's first ``width`` examples and no others, so that nothing of one user reaches another's
    gradient. Every user has a bag, an empty one if need be: which users have examples is private.

    Raises:
        ValueError: there are no parts, from which to know what an example looks like.
    """
    bags, taken = None, np.zeros(n_users, dtype=np.int64)
    for user, examples in parts:
        bags = bags or _empty(n_users, width, examples)
        order = np.argsort(user, kind="stable")
        own, count = user[order], np.bincount(user, minlength=n_users)
        slot = (taken - np.cumsum(count) + count)[own] + np.arange(len(own))
        taken += count
        kept = slot < width
        own, slot, order = own[kept], slot[kept], order[kept]
        bags.categories[own, slot] = torch.from_numpy(examples.features.categories[order])
        bags.numbers[own, slot] = torch.from_numpy(examples.features.numbers[order].astype(np.float32))
        bags.label[own, slot] = torch.from_numpy(examples.label[order].astype(np.float32))
        bags.mask[own, slot] = 1.0
    if bags is None:
        raise ValueError("bags of no examples")
    return bags


def _empty(n_users: int, width: int, like: Labelled) -> Bags:
    categories, numbers = like.features.categories.shape[1], like.features.numbers.shape[1]
    return Bags(
        torch.zeros(n_users, width, categories, dtype=torch.int64),
        torch.zeros(n_users, width, numbers),
        torch.zeros(n_users, width),
        torch.zeros(n_users, width),
    )
