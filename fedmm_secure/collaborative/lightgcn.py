"""LightGCN (He et al., SIGIR 2020) trained with BPR (Rendle et al., UAI 2009). Not private."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fedmm_secure.collaborative.svd import item_weight, normalised
from fedmm_secure.data.market import FloatArray
from fedmm_secure.randomness import numpy_generator, torch_generator


class LightGCNEmbedding:
    """Collaborative embeddings by linear propagation over the interaction graph.

    A user is embedded by the user's history alone: layer 0 of a user is the normalised mean of the items'
    layer 0. Training and ``transform`` therefore treat old and new users alike, and a held-out row really is
    left out of the user's vector.

    Args:
        dim: embedding size.
        layers: propagation steps.
        epochs: passes over the interactions.
        learning_rate: Adam's step size.
        regularisation: L2 weight on the embeddings of a batch.
        batch_size: (user, positive, negative) triples in a batch.
        seed: seed of initialisation, order and negatives.

    Attributes:
        user_factors_: ``(n_users, dim)``.
        item_factors_: ``(n_items, dim)``.
        loss_: mean BPR loss of each epoch.
    """

    def __init__(
        self,
        dim: int = 32,
        *,
        layers: int = 2,
        epochs: int = 60,
        learning_rate: float = 0.01,
        regularisation: float = 1e-4,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        self.dim, self.layers, self.epochs = dim, layers, epochs
        self.learning_rate, self.regularisation = learning_rate, regularisation
        self.batch_size, self.seed = batch_size, seed

    def fit(self, train: sparse.csr_array) -> Self:
        """Fit on a binary interaction matrix ``(n_users, n_items)``."""
        matrix = normalised(train, item_weight(train))
        forward, backward = _torch_sparse(matrix), _torch_sparse(sparse.csr_array(matrix.T))
        generator = torch_generator("lightgcn", self.seed)
        rng = numpy_generator("lightgcn", self.seed)
        base = torch.nn.Parameter(0.1 * torch.randn(train.shape[1], self.dim, generator=generator))
        optimizer = torch.optim.Adam([base], lr=self.learning_rate)
        pairs = train.tocoo()
        user, item = (
            torch.from_numpy(pairs.coords[0].astype(np.int64)),
            torch.from_numpy(pairs.coords[1].astype(np.int64)),
        )
        self.loss_: list[float] = []
        for _ in range(self.epochs):
            negative = torch.from_numpy(rng.integers(0, train.shape[1], len(user)))
            total = 0.0
            for chosen in torch.randperm(len(user), generator=generator).split(self.batch_size):
                users, items = self._propagate(base, forward, backward)
                u, p, n = users[user[chosen]], items[item[chosen]], items[negative[chosen]]
                loss = torch.nn.functional.softplus((u * n).sum(1) - (u * p).sum(1)).mean()
                penalty = (base[item[chosen]].square().sum() + base[negative[chosen]].square().sum()) / len(chosen)
                optimizer.zero_grad()
                (loss + self.regularisation * penalty).backward()
                optimizer.step()
                total += float(loss.detach()) * len(chosen)
            self.loss_.append(total / max(len(user), 1))
        with torch.no_grad():
            _, items = self._propagate(base, forward, backward)
        # users read the items' averaged layers: linear in the user's own row, old or new
        return self.set_factors(items.double().numpy(), train)

    def set_factors(self, item_factors: FloatArray, train: sparse.csr_array) -> Self:
        """Take item factors ``(n_items, dim)`` that were fitted to ``train`` before."""
        self._item_weight = item_weight(train)
        self.item_factors_ = item_factors
        self.user_factors_ = self.transform(train)
        return self

    def transform(self, history: sparse.csr_array) -> FloatArray:
        """Embed users by their histories ``(n, n_items)``; returns ``(n, dim)``."""
        return np.asarray(normalised(history, self._item_weight) @ self.item_factors_)

    def _propagate(self, base: Tensor, forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
        layer = base
        total = base
        for _ in range(self.layers):
            layer = torch.sparse.mm(backward, torch.sparse.mm(forward, layer))
            total = total + layer
        items = total / (self.layers + 1)
        return torch.sparse.mm(forward, items), items


def _torch_sparse(matrix: sparse.csr_array) -> Tensor:
    coo = matrix.tocoo()
    index = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
    values = torch.from_numpy(coo.data.astype(np.float32))
    return torch.sparse_coo_tensor(index, values, coo.shape, check_invariants=False).coalesce()
