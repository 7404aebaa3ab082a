"""Trains models of FuxiCTR and LightGBM in an interpreter that has them; run as a script there, it needs nothing else.

Reads orders, one JSON object a line, and answers each with one. Everything is on one thread; seconds are processor time
of ``fit``, validation and early stopping included. Data are folders of ``fields.json`` (number of values of each
category, names of numbers) and ``train.npz``, ``valid.npz``, ``test.npz`` (a column for each field, and ``label``).

FuxiCTR's wheel has the parts of its models, and the models themselves stand in its repository: they are put together
here of those parts as they are there (``model_zoo`` of 2.3.10), which a comparison of outputs confirmed.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_Order = dict[str, Any]
_SPLITS = ("train", "valid", "test")


def main() -> None:
    """Answer orders until there are none."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            found = _DONE[order["do"]](order)
        except ImportError as error:
            found = {"missing": str(error)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def _lightgbm(order: _Order) -> _Order:
    """Boosted trees, with the choices of ``order``."""
    from lightgbm import Booster, Dataset, early_stopping, train
    from sklearn.metrics import roc_auc_score

    folder, choices = Path(order["data"]), order["choices"]
    names, columns = list(_fields(folder)), {split: np.load(folder / f"{split}.npz") for split in _SPLITS}
    parts = {split: np.column_stack([found[name] for name in names]) for split, found in columns.items()}
    grown: list[int] = []  # those after the best one included
    started = time.process_time()
    inputs = Dataset(parts["train"], columns["train"]["label"])
    model: Booster = train(
        {"objective": "binary", "num_threads": 1, "verbosity": -1, "seed": order["seed"], **choices["parameters"]},
        inputs,
        choices["most"],
        valid_sets=[Dataset(parts["valid"], columns["valid"]["label"], reference=inputs)],
        callbacks=[lambda note: grown.append(note.iteration), early_stopping(choices["patience"], verbose=False)],
    )
    seconds = time.process_time() - started
    auc = roc_auc_score(columns["test"]["label"], model.predict(parts["test"], num_threads=1))
    return {"seconds": seconds, "auc": float(auc), "passes": len(grown)}


def _fuxictr(order: _Order) -> _Order:
    """A network of FuxiCTR by its kind, with the choices of ``order``; on its loader, or on batches that lie ready."""
    import torch
    from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
    from fuxictr.pytorch.torch_utils import seed_everything
    from sklearn.metrics import roc_auc_score

    torch.set_num_threads(1)
    seed_everything(order["seed"])
    folder, choices = Path(order["data"]), order["choices"]
    model = _network(order["kind"], folder, choices)

    def loader(split: str, shuffle: bool) -> Any:
        found = NpzDataLoader(
            model.feature_map, str(folder / f"{split}.npz"), choices["batch"], shuffle=shuffle, num_workers=0
        )
        return _Ready(found, shuffle) if order["ready"] else found

    train, valid, test = (loader(split, split == "train") for split in _SPLITS)
    started = time.process_time()
    model.fit(train, epochs=choices["most"], validation_data=valid)
    seconds = time.process_time() - started
    auc = roc_auc_score(np.load(folder / "test.npz")["label"], model.predict(test))
    return {"seconds": seconds, "auc": float(auc), "passes": model._epoch_index + 1}


class _Ready:
    """The examples of a loader of FuxiCTR as tensors in memory: what is left of an epoch is the model's own time."""

    def __init__(self, loader: Any, shuffle: bool) -> None:
        self._all: dict[str, Any] = loader.collate_fn(loader.dataset.darray)
        self._size: int = loader.batch_size
        self._shuffle = shuffle

    def __len__(self) -> int:
        return math.ceil(len(self._all["label"]) / self._size)

    def __iter__(self) -> Any:
        import torch

        n = len(self._all["label"])
        for chosen in (torch.randperm(n) if self._shuffle else torch.arange(n)).split(self._size):
            yield {name: values[chosen] for name, values in self._all.items()}


def _fields(folder: Path) -> OrderedDict[str, _Order]:
    found = json.loads((folder / "fields.json").read_text())
    categories = {name: {"type": "categorical", "vocab_size": n, "source": ""} for name, n in found["categories"]}
    return OrderedDict(categories | {name: {"type": "numeric", "source": ""} for name in found["numbers"]})


def _network(kind: str, folder: Path, choices: _Order) -> Any:
    """An untrained network of a kind, put together of FuxiCTR's parts."""
    import torch
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import (
        CrossNetV2,
        FactorizationMachine,
        FeatureEmbedding,
        LogisticRegression,
        MLP_Block,
        ScaledDotProductAttention,
    )
    from fuxictr.pytorch.models import BaseModel
    from torch import Tensor, nn

    fields = FeatureMap("best", str(folder))
    (folder / "best").mkdir(exist_ok=True)  # where FuxiCTR keeps the weights of the best epoch
    fields.features, fields.labels = _fields(folder), ["label"]
    fields.num_fields = fields.get_num_fields()
    fields.set_column_index()
    dim, hidden, dropout = choices["dim"], choices["hidden"], choices["dropout"]
    heads, layers, width = choices["heads"], choices["layers"], dim * fields.num_fields

    def perceptron(output: int | None) -> Any:
        return MLP_Block(width, hidden, output_dim=output, dropout_rates=dropout)

    class Base(BaseModel):  # type: ignore[misc]
        """What all kinds have."""

        def __init__(self) -> None:
            super().__init__(
                fields,
                model_root=str(folder),
                metrics=["AUC"],
                verbose=0,
                early_stop_patience=choices["patience"],
                embedding_regularizer=choices["table_decay"],
                reduce_lr_on_plateau=False,
            )
            self.table = FeatureEmbedding(fields, dim)
            self.parts()
            self.compile("adam", "binary_crossentropy", choices["learning_rate"])
            self.reset_parameters()

        def parts(self) -> None:
            """Make the layers."""

        def logit(self, inputs: _Order, fields: Tensor) -> Tensor:
            """Logits ``(n, 1)`` of embedded fields ``(n, n_fields, dim)``."""
            raise NotImplementedError

        def forward(self, inputs: _Order) -> dict[str, Tensor]:
            """Probabilities under FuxiCTR's name."""
            known = self.get_inputs(inputs)
            return {"y_pred": self.output_activation(self.logit(known, self.table(known)))}

    class DeepFM(Base):
        def parts(self) -> None:
            self.fm, self.deep = FactorizationMachine(fields), perceptron(1)

        def logit(self, inputs: _Order, fields: Tensor) -> Tensor:
            return torch.as_tensor(self.fm(inputs, fields) + self.deep(fields.flatten(1)))

    class DCNv2(Base):
        def parts(self) -> None:
            self.cross, self.deep = CrossNetV2(width, layers), perceptron(None)
            self.last = nn.Linear(width + hidden[-1], 1)

        def logit(self, inputs: _Order, fields: Tensor) -> Tensor:
            flat = fields.flatten(1)
            return torch.as_tensor(self.last(torch.cat([self.cross(flat), self.deep(flat)], dim=1)))

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
            self.meet = ScaledDotProductAttention(dropout)

        def forward(self, fields: Tensor) -> Tensor:
            """Fields of the same shape, met by each other, with a residual connection."""
            parts = [layer(fields).unflatten(2, (heads, -1)) for layer in (self.query, self.key, self.value)]
            met, _ = self.meet(*(part.transpose(1, 2) for part in parts))
            return torch.relu(met.transpose(1, 2).flatten(2) + fields)

    class AutoInt(Base):
        def parts(self) -> None:
            self.linear, self.deep = LogisticRegression(fields, use_bias=False), perceptron(1)
            self.attention = nn.Sequential(*(Attention() for _ in range(layers)))
            self.last = nn.Linear(width, 1)

        def logit(self, inputs: _Order, fields: Tensor) -> Tensor:
            met = self.last(self.attention(fields).flatten(1))
            return torch.as_tensor(met + self.deep(fields.flatten(1)) + self.linear(inputs))

    class FinalMLP(Base):
        def parts(self) -> None:
            from model_zoo.LongCTR.FinalMLP.FinalMLP import FeatureSelection, InteractionAggregation

            self.one, self.other = perceptron(None), perceptron(None)
            self.gates = FeatureSelection(fields, width, dim, [64])
            self.meet = InteractionAggregation(hidden[-1], hidden[-1], num_heads=heads)

        def logit(self, inputs: _Order, fields: Tensor) -> Tensor:
            one, other = self.gates(inputs, fields.flatten(1))
            return torch.as_tensor(self.meet(self.one(one), self.other(other)))

    return {"deepfm": DeepFM, "dcnv2": DCNv2, "autoint": AutoInt, "finalmlp": FinalMLP}[kind]()


_TRAINERS: dict[str, Callable[[_Order], _Order]] = {"FuxiCTR": _fuxictr, "LightGBM": _lightgbm}


def _version(order: _Order) -> _Order:
    name = order["library"].lower()
    import_module(name)
    return {"version": version(name)}


def _train(order: _Order) -> _Order:
    return _TRAINERS[order["library"]](order)


_DONE: dict[str, Callable[[_Order], _Order]] = {"version": _version, "train": _train}

if __name__ == "__main__":
    main()
