"""What publications may hold: every array by name, shape and type, on its grid and in its range; nothing else.

Files are read as data of somebody who is not trusted: sizes are compared before anything is unpacked, nothing in them
is executed, and a file must not be larger than what its arrays need.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts
from fedmm_secure.data.catalogue import Catalogue, fits_on_a_line
from fedmm_secure.guarantee.expected_arrays import (
    OFF_GRID,
    Expected,
    cardinalities,
    codes_problem,
    ctr_arrays,
    model_arrays,
    on_grid,
)
from fedmm_secure.guarantee.own_stages import OWN_STAGES
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.published_arrays import PublicationError, read_numpy, read_tensors
from fedmm_secure.guarantee.shared_sums import gram_items
from fedmm_secure.guarantee.stages import (
    CATALOGUE,
    COUNTS,
    CTR,
    EMBEDDING,
    ITEM_CODES,
    MODEL,
    PUBLISHING,
)
from privacy.accounting.ledger import stage_group
from privacy.arrays import Array
from privacy.mechanisms.dp_svd import GRAM_LEVELS, fix_signs, subspace_edge
from privacy.mechanisms.grid import Grid

EIGEN_ERROR = 1e-11  # of the largest eigenvalue; on a machine of the run's kind verification compares every bit
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    pickle.UnpicklingError,
)


@dataclass
class Publications:
    """What one market has published so far; what is read next may have to fit it.

    Attributes:
        plan: of the market.
        read: by stage, the arrays that were found right.
    """

    plan: SpendingPlan
    read: dict[str, Mapping[str, Array]] = field(default_factory=dict)

    def problem(self, stage: str, data: bytes) -> str | None:
        """What the bytes of a publication hold that they must not; None if nothing. Counts come before factors."""
        try:
            self.read[stage] = self._read(stage, data)
        except _UNREADABLE as error:
            text = str(error) if isinstance(error, PublicationError) else f"cannot be read: {error!s:.200}"
            return f"{stage}: {text}"
        return None

    def _read(self, stage: str, data: bytes) -> Mapping[str, Array]:
        group = stage_group(stage)
        if group not in PUBLISHING:
            raise PublicationError("is not a stage that publishes anything")
        if group == CATALOGUE:
            return {"items": read_items(data, self._items)}
        if group in (MODEL, CTR):
            expected = model_arrays(self.plan.config) if group == MODEL else ctr_arrays(self.plan.config, self._items)
            found = read_tensors(data, expected)
        else:
            found = read_numpy(data, self._expected(group), single=group == ITEM_CODES)
        problem = self._value_problem(group, found)
        if problem:
            raise PublicationError(problem)
        return found

    @property
    def _items(self) -> int:
        return self.plan.size.items

    def _expected(self, group: str) -> Expected:
        if group == COUNTS:
            found: Expected = {"values": ((self._items,), "float64"), "noise": ((), "float64")}
            times: Expected = {"moments": ((self._items,), "float64"), "time_weight": ((), "float64")}
            return {**found, **times} if self.plan.config.times_counted else found
        if group == ITEM_CODES:
            return {"codes": ((self._items, 2), "int64")}
        if group in OWN_STAGES:
            return OWN_STAGES[group].expected(self.plan)
        if self.plan.config.data.shared_items:
            return self._shared_embedding
        chosen = len(self.embedding().items_)
        rank = min(self.plan.config.embedding.private.dim, chosen)
        gram = self.plan.config.embedding.private.uses_gram(self._items)
        return {
            "items": ((chosen,), "int64"),
            "factors": ((chosen, rank), "float64"),
            "eigenvalues": ((rank,), "float64"),
            "noise_edge": ((), "float64"),
            **({"gram": ((chosen, chosen), "float64"), "gram_noise": ((), "float64")} if gram else {}),
        }

    @property
    def _shared_embedding(self) -> Expected:
        private = self.plan.config.embedding.private
        each, n = ((self._items,), "float64"), min(self._items, gram_items(self.plan.config))
        most = n * (n + 1) // 2  # pairs of the market's items that are in the matrix, of which there may be fewer
        return {
            "position": ((self._items,), "int64"),
            "factors": ((self._items, private.dim), "float64"),
            "eigenvalues": ((private.dim,), "float64"),
            "noise_edge": ((), "float64"),
            "weights": each,
            "shared_count": each,
            "shared_when": each,
            "gram": ((-most,), "float64"),
            "gram_noise": ((), "float64"),
        }

    def embedding(self) -> DPSVDEmbedding:
        """The items and weights that the published counts choose.

        Raises:
            PublicationError: there are no counts.
        """
        if COUNTS not in self.read:
            raise PublicationError("there are no counts that it could follow from")
        return DPSVDEmbedding(ItemCounts.from_arrays(dict(self.read[COUNTS])), self.plan.config.embedding.private)

    def _value_problem(self, group: str, found: Mapping[str, Array]) -> str | None:
        """What can be said of values: they lie where the mechanism puts them, and constants are those of the plan."""
        infinite = [
            name for name, values in found.items() if values.dtype.kind == "f" and not np.isfinite(values).all()
        ]
        if infinite:
            return f"{', '.join(infinite)}: holds what is no finite number"
        if group in OWN_STAGES:
            return OWN_STAGES[group].problem(self.plan, found)
        if group == COUNTS:
            multiplier = self.plan.noise[COUNTS]
            if float(found["noise"]) != multiplier:
                return f"says noise {float(found['noise']):g}, its ledger was opened with {multiplier:g}"
            noised = [found["values"], *([found["moments"]] if "moments" in found else [])]
            grid, users = Grid.of(multiplier), self.plan.size.users
            if not all(on_grid(values, grid, grid.most(users)) for values in noised):
                return OFF_GRID
            if "moments" in found and float(found["time_weight"]) != self.plan.config.privacy.contribution.time_weight:
                return "times have another weight than the configuration gives them"
        if group == EMBEDDING and self.plan.config.data.shared_items:
            known = int((found["weights"] > 0).sum())
            if len(found["gram"]) != known * (known + 1) // 2:
                return "its co-occurrence is not that of the items that have a weight"
            return _position_problem(found["position"], self.plan.config.data.shared_size)
        if group == EMBEDDING and not np.array_equal(found["items"], self.embedding().items_):
            return "the items are not those that the published counts choose"
        if group == EMBEDDING:
            multiplier = self.plan.noise[EMBEDDING]
            if "gram" in found:
                problem = _gram_problem(found, multiplier, self.plan.size.users)
            else:
                problem = _subspace_problem(found, multiplier)
            return problem or _basis_problem(found["factors"])
        if group == ITEM_CODES:
            return codes_problem(found["codes"], self.plan.config.quantizer)
        if group == CTR:
            sizes = cardinalities(self.plan.config, self._items)
            if not np.array_equal(found["network.offsets"], np.cumsum([0, *sizes])[:-1]):
                return "offsets of the embedding tables are not those of its features"
        return None


def _gram_problem(found: Mapping[str, Array], multiplier: float, users: int) -> str | None:
    """A noisy Gram matrix is symmetric and on its grid, and factors are its eigenvectors: post-processing."""
    gram, factors = found["gram"], found["factors"]
    if float(found["gram_noise"]) != multiplier:
        return f"says noise {float(found['gram_noise']):g}, its ledger was opened with {multiplier:g}"
    # the mean of two values of the grid, one on each side of the diagonal
    grid = Grid.of(multiplier, levels=GRAM_LEVELS)
    if not on_grid(2.0 * gram, grid, 2.0 * grid.most(users)):
        return OFF_GRID
    if not np.array_equal(gram, gram.T):
        return "its co-occurrence is not symmetric"
    scale = max(1.0, float(np.abs(found["eigenvalues"]).max(initial=0.0)))
    if not np.allclose(gram @ factors, factors * found["eigenvalues"], rtol=0.0, atol=EIGEN_ERROR * scale):
        return "its factors are not eigenvectors of its co-occurrence"
    if (np.diff(found["eigenvalues"]) > 0).any():
        return "its eigenvalues do not descend"
    return None


def _subspace_problem(found: Mapping[str, Array], multiplier: float) -> str | None:
    """Of subspace iterations nothing else is published: what follows from the plan is that, and lengths are lengths."""
    lengths, factors = found["eigenvalues"], found["factors"]
    if float(found["noise_edge"]) != subspace_edge(multiplier, *factors.shape):
        return f"says that noise alone reaches {float(found['noise_edge']):g}, which is not that of {multiplier:g}"
    if np.signbit(lengths).any() or (np.diff(lengths) > 0).any():
        return "its eigenvalues are no lengths that descend"
    return (
        None if np.array_equal(fix_signs(factors), factors) else "its factors are not of the signs that are published"
    )


def _basis_problem(factors: Array) -> str | None:
    """Factors are orthonormal: vectors of other lengths would be eigenvectors of anything."""
    if not np.allclose(factors.T @ factors, np.eye(factors.shape[1]), rtol=0.0, atol=EIGEN_ERROR):
        return "its factors are not orthonormal"
    return None


def _position_problem(position: Array, size: int) -> str | None:
    """Positions of a market's items in a shared catalogue: both are sorted, so they ascend."""
    known = position[position >= 0]
    if (position < -1).any() or (known >= size).any() or (np.diff(known) <= 0).any():
        return "its items have no such positions in the shared catalogue"
    return None


def read_items(data: bytes, count: int) -> Array:
    """Ids of a discovered catalogue: one a line, ascending, distinct, as many as everything else has items.

    Raises:
        PublicationError: the bytes are another text, or none.
    """
    found = Catalogue.of("discovered", data.decode().split("\n")[:-1])
    if found.text != data or not all(found.items) or not all(map(fits_on_a_line, found.items)):
        raise PublicationError("is no list of distinct ids in ascending order")
    if len(found) != count:
        raise PublicationError(f"holds {len(found)} items, where everything else has {count}")
    return found.items
