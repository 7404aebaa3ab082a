"""What publications may hold: every array by name, shape and type, on its grid and in its range; nothing else.

Files are read as data of somebody who is not trusted: sizes are compared before anything is unpacked, nothing in them
is executed, and a file must not be larger than what its arrays need.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts
from fedmm_secure.config import Config
from fedmm_secure.data.catalogue import Catalogue, printable
from fedmm_secure.foreign.archives import stored_members
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.score_bins import N_BINS, contribution
from fedmm_secure.guarantee.shared_sums import gram_items
from fedmm_secure.guarantee.stages import (
    CATALOGUE,
    COUNTS,
    CTR,
    EMBEDDING,
    EVALUATION,
    ITEM_CODES,
    MODEL,
    PUBLISHING,
    USER_CODES,
)
from privacy.accounting.ledger import stage_group
from privacy.foreign import ForeignFileError
from privacy.mechanisms.dp_svd import GRAM_LEVELS
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.histograms import LABELS, grid_weights, noise_of

Array = NDArray[Any]
Expected = Mapping[str, tuple[tuple[int, ...], str]]  # shape and type by name; -n is a length of n at most
# numbers of a pair that each feature group of a released model has
NUMBERS: Mapping[str, int] = {"code_affinity": 3, "scores": 12, "counts": 9, "recency": 6, "shared": 8}
EIGEN_ERROR = 1e-6  # of the largest eigenvalue
_OVERHEAD, _OVERHEAD_EACH = 4096, 512  # bytes of a file beside its arrays, and beside each of them
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


OFF_GRID = "values are not multiples of the public grid's step: no discrete noise was added to them"


class PublicationError(ValueError):
    """Bytes that are not what a stage publishes."""


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
        if group == USER_CODES:
            return {"codes": ((self.plan.size.users, 2), "int64")}
        if group == EVALUATION:
            return {
                "counts": ((len(self.plan.config.seed), LABELS, N_BINS), "float64"),
                "noise": ((LABELS,), "float64"),
            }
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
        quantizer = self.plan.config.quantizer
        if group == COUNTS:
            multiplier = self.plan.noise[COUNTS]
            if float(found["noise"]) != multiplier:
                return f"says noise {float(found['noise']):g}, its ledger was opened with {multiplier:g}"
            noised = [found["values"], *([found["moments"]] if "moments" in found else [])]
            if not all(on_grid(values, Grid.of(multiplier)) for values in noised):
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
        if group == EMBEDDING and "gram" in found:
            return _gram_problem(found, self.plan.noise[EMBEDDING])
        if group in (ITEM_CODES, USER_CODES):
            codes = found["codes"]
            if not ((codes >= 0) & (codes < [quantizer.global_codes, quantizer.local_codes])).all():
                return "codes are out of range"
        if group == EVALUATION:
            return self._histogram_problem(found["counts"], found["noise"])
        if group == CTR:
            sizes = _cardinalities(self.plan.config, self._items)
            if not np.array_equal(found["network.offsets"], np.cumsum([0, *sizes])[:-1]):
                return "offsets of the embedding tables are not those of its features"
        return None

    def _histogram_problem(self, counts: Array, noise: Array) -> str | None:
        multiplier, models = self.plan.noise[EVALUATION], len(self.plan.config.seed)
        most = contribution(self.plan.config.data.negatives_per_positive)
        if tuple(noise.tolist()) != noise_of(multiplier, models, most):
            return f"says noise {noise.tolist()}, which is not that of the multiplier {multiplier:g}"
        weights = grid_weights(multiplier, models, most)[:, None]
        integers = np.rint(counts * weights)
        if not np.isfinite(counts).all() or not np.array_equal(integers / weights, counts):
            return OFF_GRID
        return None


def _gram_problem(found: Mapping[str, Array], multiplier: float) -> str | None:
    """A noisy Gram matrix is symmetric and on its grid, and factors are its eigenvectors: post-processing."""
    gram, factors = found["gram"], found["factors"]
    if float(found["gram_noise"]) != multiplier:
        return f"says noise {float(found['gram_noise']):g}, its ledger was opened with {multiplier:g}"
    # the mean of two values of the grid, one on each side of the diagonal
    if not on_grid(2.0 * gram, Grid.of(multiplier, levels=GRAM_LEVELS)):
        return OFF_GRID
    if not np.array_equal(gram, gram.T):
        return "its co-occurrence is not symmetric"
    scale = max(1.0, float(np.abs(found["eigenvalues"]).max(initial=0.0)))
    if not np.allclose(gram @ factors, factors * found["eigenvalues"], atol=EIGEN_ERROR * scale):
        return "its factors are not eigenvectors of its co-occurrence"
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
    if found.text != data or not all(found.items) or not all(map(printable, found.items)):
        raise PublicationError("is no list of distinct ids in ascending order")
    if len(found) != count:
        raise PublicationError(f"holds {len(found)} items, where everything else has {count}")
    return found.items


def on_grid(values: Array, grid: Grid) -> bool:
    """Whether all values are multiples of a grid's step, to the last bit."""
    if not np.isfinite(values).all():
        return False
    integers = np.rint(values / grid.step)
    return bool((np.abs(integers) < 2.0**53).all() and np.array_equal(grid.real(integers.astype(np.int64)), values))


WORDS = "global_codebook.codewords"


def model_arrays(config: Config) -> Expected:
    """Tensors of the RQ-VAE's state."""
    quantizer = config.quantizer
    dim = config.embedding.private.dim if config.private_embedding else config.embedding.dim
    found = _layers("encoder", [dim, quantizer.hidden_dim, quantizer.latent_dim], 2)
    found |= _layers("decoder", [quantizer.latent_dim, quantizer.hidden_dim, dim], 2)
    for name, codes in (("global", quantizer.global_codes), ("local", quantizer.local_codes)):
        found[f"{name}_codebook.codewords"] = (codes, quantizer.latent_dim), "float32"
    return found


def ctr_arrays(config: Config, n_items: int) -> Expected:
    """Tensors of a released CTR model's state: the network's, and the standardisation of its numbers."""
    ctr, sizes = config.ctr, _cardinalities(config, n_items)
    numbers, rows = sum(NUMBERS.get(group, 0) for group in ctr.features), max(sum(sizes), 1)
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "centre": ((numbers,), "float64"),
        "spread": ((numbers,), "float64"),
        "network.offsets": ((len(sizes),), "int64"),
        "network.first.weight": ((rows, 1), "float32"),
        "network.first_numbers": ((numbers,), "float32"),
        "network.bias": ((1,), "float32"),
    }
    if ctr.model == "logistic":
        return found
    width = ctr.dim * len(sizes) + (ctr.dim * numbers if ctr.model == "deepfm" else numbers)
    found["network.embedding.weight"] = (rows, ctr.dim), "float32"
    found["network.number_vectors"] = (numbers, ctr.dim), "float32"
    found |= _layers("network.deep", [width, *ctr.hidden], 3)  # a linear layer, its activation, its dropout
    last = ctr.hidden[-1] if ctr.hidden else width
    if ctr.model == "dcnv2":
        found |= _layers("network.crosses", [width, width, width], 1)
        last += width
    found["network.head.weight"], found["network.head.bias"] = ((1, last), "float32"), ((1,), "float32")
    return found


def _layers(name: str, widths: list[int], every: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Linear layers of a sequence, ``every`` so many of its members one."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for index, (before, after) in enumerate(pairwise(widths)):
        found[f"{name}.{every * index}.weight"] = (after, before), "float32"
        found[f"{name}.{every * index}.bias"] = (after,), "float32"
    return found


def _cardinalities(config: Config, n_items: int) -> list[int]:
    features, quantizer = set(config.ctr.features), config.quantizer
    codes = [quantizer.global_codes, quantizer.local_codes]
    sides = len({"user_codes", "item_codes"} & features)
    return ([n_items] if "item_id" in features else []) + codes * sides


def read_numpy(data: bytes, expected: Expected, *, single: bool = False) -> dict[str, Array]:
    """Named arrays of a file that ``numpy.savez`` wrote, or the one array of ``numpy.save``.

    Raises:
        PublicationError: an array is missing, or not expected, or of another shape or type, or more bytes are there.
    """
    _refuse_large(len(data), expected)
    if single:
        (name,) = expected
        return {name: _array(name, data, expected)}
    members = stored_members(data)
    _compare_names({name.removesuffix(".npy") for name in members}, expected, len(members))
    return {name: _array(name, bytes(members[f"{name}.npy"]), expected) for name in expected}


def _array(name: str, data: bytes, expected: Expected) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise PublicationError(f"{name}: an array format that nothing here writes")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    _compare(name, shape, str(dtype), expected)
    if len(data) != stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise PublicationError(f"{name}: more bytes, or fewer, than its values have")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def read_tensors(data: bytes, expected: Expected) -> dict[str, Array]:
    """Named tensors of a file that ``torch.save`` wrote; those of a mapping inside have its name before theirs.

    Raises:
        PublicationError: a tensor is missing, or not expected, or of another shape or type, or more bytes are there.
    """
    _refuse_large(len(data), expected)
    storages = sum("/data/" in name for name in stored_members(data))
    try:
        tensors = _flat(unpickle_tensors(data, "cannot be read"))
    except ForeignFileError as error:
        raise PublicationError(str(error)) from error
    _compare_names(set(tensors), expected, len(tensors))
    if storages != len(expected):
        raise PublicationError(f"{storages} storages for {len(expected)} tensors")
    found = {}
    for name, tensor in tensors.items():
        _compare(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), expected)
        # a view of a larger storage would carry the rest of it along
        if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            raise PublicationError(f"{name}: its storage holds more than its values")
        found[name] = tensor.detach().numpy()
    return found


def _flat(found: Any, prefix: str = "") -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise PublicationError("holds no mapping of names to tensors")
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not prefix:
            tensors |= _flat(value, f"{name}.")
        elif isinstance(value, Tensor):
            tensors[name] = value
        else:
            raise PublicationError(f"{name!r:.100} is no tensor")
    return tensors


def _refuse_large(size: int, expected: Expected) -> None:
    needed = sum(_bytes(shape, dtype) for shape, dtype in expected.values())
    if size > needed + _OVERHEAD + _OVERHEAD_EACH * len(expected):
        raise PublicationError(f"{size} bytes, where its arrays need {needed}: holds more than them")


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return abs(int(np.prod(shape, dtype=object))) * np.dtype(dtype).itemsize


def _fits(length: int, wanted: int) -> bool:
    return length == wanted if wanted >= 0 else 0 <= length <= -wanted


def _compare_names(found: set[str], expected: Expected, count: int) -> None:
    for name in sorted(found ^ expected.keys()):
        raise PublicationError(f"{name!r:.100} {'is missing' if name in expected else 'is nothing that it publishes'}")
    if count != len(expected):
        raise PublicationError("an array is there twice")


def _compare(name: str, shape: tuple[int, ...], dtype: str, expected: Expected) -> None:
    wanted, kind = expected[name]
    fits = len(shape) == len(wanted) and all(map(_fits, shape, wanted))
    if not fits or dtype != kind:
        raise PublicationError(f"{name} is {dtype} of shape {shape}, where {kind} of shape {wanted} was expected")
