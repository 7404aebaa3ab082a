"""One user's examples as one bag: the unit that user-level DP-SGD clips and samples."""

from __future__ import annotations

from collections.abc import Sequence
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


def make_bags(n_users: int, width: int, parts: Sequence[tuple[IntArray, Labelled]]) -> Bags:
    """Gather examples by user; parts are (user of each example ``(n,)``, examples).

    A bag holds its user's first ``width`` examples and no others, so that nothing of one user reaches another's
    gradient. Every user has a bag, an empty one if need be: which users have examples is private.
    """
    user = np.concatenate([users for users, _ in parts])
    categories = np.concatenate([examples.features.categories for _, examples in parts])
    numbers = np.concatenate([examples.features.numbers for _, examples in parts])
    label = np.concatenate([examples.label for _, examples in parts])
    order = np.argsort(user, kind="stable")
    user, categories, numbers, label = user[order], categories[order], numbers[order], label[order]
    count = np.bincount(user, minlength=n_users)
    slot = np.arange(len(user)) - (np.cumsum(count) - count)[user]
    kept = slot < width
    user, slot = user[kept], slot[kept]
    bags = Bags(
        torch.zeros(n_users, width, categories.shape[1], dtype=torch.int64),
        torch.zeros(n_users, width, numbers.shape[1]),
        torch.zeros(n_users, width),
        torch.zeros(n_users, width),
    )
    bags.categories[user, slot] = torch.from_numpy(categories[kept])
    bags.numbers[user, slot] = torch.from_numpy(numbers[kept].astype(np.float32))
    bags.label[user, slot] = torch.from_numpy(label[kept].astype(np.float32))
    bags.mask[user, slot] = 1.0
    return bags
