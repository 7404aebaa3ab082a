"""Neural CTR models of one kind fitted side by side, each to examples of its own; see ``modules`` beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from attacks.side_by_side.modules import Forward, SideBySide
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.models.neural import NeuralModel
from fedmm_secure.randomness import derive_seed, torch_generator


def fit_together(
    models: Sequence[NeuralModel],
    sources: Sequence[ExampleSource],
    validations: Sequence[Labelled],
    refits: Sequence[ExampleSource] | None,
) -> None:
    """What ``NeuralModel.fit`` does, for models of one kind, schema and choices, on examples of each.

    Every model keeps its own early stopping. An epoch has the same number of steps for all of them, the most that any
    would take alone, so batches are a little smaller than alone.
    """
    limit = [models[0].choices.max_epochs] * len(models)
    _train(models, sources, limit, validations)
    if refits is not None:
        _train(models, refits, [model.epochs_ for model in models], None)


def _train(
    models: Sequence[NeuralModel],
    sources: Sequence[ExampleSource],
    limits: Sequence[int],
    validations: Sequence[Labelled] | None,
) -> None:
    choices, n = models[0].choices, len(models)
    generators = [torch_generator("ctr-init", model.seed) for model in models]
    torch.manual_seed(derive_seed("ctr-dropout", models[0].seed))  # dropout takes no generator
    networks = [model.new_network(generator) for model, generator in zip(models, generators, strict=True)]
    tables = {f"{name}.weight" for name, part in networks[0].named_modules() if isinstance(part, nn.Embedding)}
    stack = SideBySide(
        networks,
        learning_rate=choices.learning_rate,
        device=choices.device,
        optimizer_groups=partial(_groups, tables=tables, decay=choices.table_decay),
    )
    best, best_epoch, best_state = [-np.inf] * n, [0] * n, [stack.state_dict(index) for index in range(n)]
    active, epoch = list(range(n)), 0
    while active:
        drawn = [sources[index].draw(epoch) for index in active]
        if epoch == 0:
            for index, examples in zip(active, drawn, strict=True):
                models[index].standardise_by(examples)
        _epoch(stack, [models[index] for index in active], drawn, [generators[index] for index in active])
        epoch += 1
        if validations is not None:
            for slot, auc in enumerate(_validation_aucs(stack, models, validations, active)):
                index = active[slot]
                if auc > best[index]:
                    best[index], best_epoch[index] = auc, epoch
                    best_state[index] = stack.state_dict(slot)
        going_on = [
            slot
            for slot, index in enumerate(active)
            if epoch < limits[index] and (validations is None or epoch - best_epoch[index] < choices.patience)
        ]
        if validations is None:
            for slot in set(range(len(active))) - set(going_on):
                best_state[active[slot]] = stack.state_dict(slot)
        if len(going_on) < len(active):
            active = [active[slot] for slot in going_on]
            stack.keep(torch.tensor(going_on, dtype=torch.int64))
    for index, (model, network) in enumerate(zip(models, networks, strict=True)):
        network.load_state_dict(best_state[index])
        model.network_ = network
        if validations is not None:
            model.validation_auc_, model.epochs_ = float(best[index]), best_epoch[index]


def _epoch(
    stack: SideBySide,
    models: Sequence[NeuralModel],
    drawn: Sequence[Labelled],
    generators: Sequence[torch.Generator],
) -> None:
    device = stack.device
    parts = [model.tensors(examples.features, device) for model, examples in zip(models, drawn, strict=True)]
    labels = [torch.from_numpy(examples.label.astype(np.float32)).to(device) for examples in drawn]
    steps = max(-(-len(label) // model.batch_size(len(label))) for label, model in zip(labels, models, strict=True))
    chunks = [
        torch.randperm(len(label), generator=generator).to(device).tensor_split(steps)
        for label, generator in zip(labels, generators, strict=True)
    ]
    for step in range(steps):
        chosen = [chunk[step] for chunk in chunks]
        width = max(map(len, chosen))
        inputs = [
            torch.stack([_padded(values[own], width) for values, own in zip(column, chosen, strict=True)])
            for column in ([part[0] for part in parts], [part[1] for part in parts], labels)
        ]
        weight = torch.stack([_padded(torch.ones(len(own), device=device), width) for own in chosen])
        stack.step(_loss, [*inputs, weight])


def _loss(forward: Forward, categories: Tensor, numbers: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    losses = nn.functional.binary_cross_entropy_with_logits(forward(categories, numbers), label, reduction="none")
    return (losses * weight).sum() / weight.sum()


def _padded(values: Tensor, width: int) -> Tensor:
    missing = width - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values


def _validation_aucs(
    stack: SideBySide, models: Sequence[NeuralModel], validations: Sequence[Labelled], active: Sequence[int]
) -> list[float]:
    parts = [models[index].tensors(validations[index].features, stack.device) for index in active]
    width = max(len(validations[index]) for index in active)
    inputs = [torch.stack([_padded(part[column], width) for part in parts]) for column in (0, 1)]
    logits = stack.evaluate(lambda forward, *batch: forward(*batch), inputs).cpu().numpy()
    labels = [validations[index].label for index in active]
    return [float(roc_auc_score(label, row[: len(label)])) for label, row in zip(labels, logits, strict=True)]


def _groups(parameters: Mapping[str, Tensor], *, tables: set[str], decay: float) -> list[dict[str, object]]:
    """As a single model's optimizer: embedding tables take their own weight decay."""
    return [
        {"params": [value for name, value in parameters.items() if name in tables], "weight_decay": decay},
        {"params": [value for name, value in parameters.items() if name not in tables]},
    ]
