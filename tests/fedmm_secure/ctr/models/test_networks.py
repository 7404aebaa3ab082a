"""Networks beside FuxiCTR's: the same weights give the same logits.

``fixtures/fuxictr.npz`` holds 200 rows, and for each kind the weights and logits of FuxiCTR 2.3.10: the models of its
repository's ``model_zoo``, two numbers beside three categories (DCNv2: categories alone), all weights drawn anew.
"""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from fedmm_secure.ctr.models.interactions import HEADS
from fedmm_secure.ctr.models.networks import ATTENTION_LAYERS, CROSS_LAYERS, NeuralCTR, NeuralKind

SIZES, DIM, HIDDEN = (20, 15, 4), 4, (8, 6)
CATEGORIES, NUMBERS = ("user", "item", "code"), ("age", "count")
TABLE = "embedding_layer.embedding_layer.embedding_layers."
UNUSED = ("number_vectors",)  # where there are no numbers
DENSE = ("0", "2", "4")  # places of the layers in a perceptron of FuxiCTR without dropout


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).parents[3] / "fixtures" / "fuxictr.npz") as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def weights_of(kind, stored):
    return {name.removeprefix(f"{kind}/"): values for name, values in stored.items() if name.startswith(f"{kind}/")}


def perceptron(theirs, prefix, ours):
    """Their hidden layers under the names of ours, which have dropout in between."""
    places = range(len(HIDDEN))
    parts = {
        (layer, part): theirs[f"{prefix}.{DENSE[layer]}.{part}"] for layer in places for part in ("weight", "bias")
    }
    return {f"{ours}.{3 * layer}.{part}": values for (layer, part), values in parts.items()}


def inputs(theirs, numbers):
    """Tables of their fields as one, and vectors of numbers."""
    found = {"embedding.weight": torch.cat([theirs[f"{TABLE}{name}.weight"] for name in CATEGORIES])}
    if numbers:
        found["number_vectors"] = torch.stack([theirs[f"{TABLE}{name}.weight"][:, 0] for name in NUMBERS])
    return found


def first_order(theirs, prefix):
    return {
        "first.weight": torch.cat([theirs[f"{prefix}{TABLE}{name}.weight"] for name in CATEGORIES]),
        "first_numbers": torch.cat([theirs[f"{prefix}{TABLE}{name}.weight"][0] for name in NUMBERS]),
    }


def deepfm(theirs):
    return {
        **inputs(theirs, True), **first_order(theirs, "fm.lr_layer."), **perceptron(theirs, "mlp.mlp", "deep"),
        "bias": theirs["fm.lr_layer.bias"],
        "head.weight": theirs["mlp.mlp.4.weight"], "head.bias": theirs["mlp.mlp.4.bias"],
    }  # fmt: skip


def dcnv2(theirs):
    crosses = {
        f"crosses.{layer}.{part}": theirs[f"crossnet.cross_layers.{layer}.{part}"]
        for layer in range(CROSS_LAYERS)
        for part in ("weight", "bias")
    }
    head = {f"head.{part}": theirs[f"fc.{part}"] for part in ("weight", "bias")}
    return {**inputs(theirs, False), **crosses, **perceptron(theirs, "parallel_dnn.mlp", "deep"), **head}


def autoint(theirs):
    # FuxiCTR adds fields themselves where heads leave their width as it is; here, as in the paper, a matrix times them
    found = {f"attention.{layer}.rest.weight": torch.eye(DIM) for layer in range(ATTENTION_LAYERS)}
    for layer in range(ATTENTION_LAYERS):
        for ours, name in (("query", "W_q"), ("key", "W_k"), ("value", "W_v")):
            found[f"attention.{layer}.{ours}.weight"] = theirs[f"self_attention.{layer}.{name}.weight"]
    return {
        **found, **inputs(theirs, True), **first_order(theirs, "lr_layer."), **perceptron(theirs, "dnn.mlp", "deep"),
        "head.weight": torch.cat([theirs["fc.weight"], theirs["dnn.mlp.4.weight"]], dim=1),
        "head.bias": theirs["fc.bias"] + theirs["dnn.mlp.4.bias"],
    }  # fmt: skip


def gate(theirs, number):
    """Without context features FuxiCTR's gate is a perceptron of a learned vector: a vector, whatever the row."""
    name = f"fs_module.fs{number}"
    first, last = ({part: theirs[f"{name}_gate.mlp.{place}.{part}"] for part in ("weight", "bias")} for place in (0, 2))
    hidden = torch.relu(torch.nn.functional.linear(theirs[f"{name}_ctx_bias"], **first))
    return torch.nn.functional.linear(hidden, **last)


def finalmlp(theirs):
    streams = {**perceptron(theirs, "mlp1.mlp", "first"), **perceptron(theirs, "mlp2.mlp", "second")}
    streams["gates"] = torch.cat([gate(theirs, 1), gate(theirs, 2)])
    streams["linear.weight"] = torch.cat([theirs[f"fusion_module.w_{side}.weight"] for side in "xy"], dim=1)
    streams["linear.bias"] = theirs["fusion_module.w_x.bias"] + theirs["fusion_module.w_y.bias"]
    size = HIDDEN[-1] // HEADS
    streams["form"] = theirs["fusion_module.w_xy"].reshape(HEADS, size, size)
    return {**inputs(theirs, True), **{f"streams.{name}": values for name, values in streams.items()}}


SAME = {"deepfm": deepfm, "dcnv2": dcnv2, "autoint": autoint, "finalmlp": finalmlp}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_weights_give_fuxictrs_logits(kind, stored):
    numbers = stored["numbers"].float()[:, : 0 if kind == "dcnv2" else len(NUMBERS)]
    generator = torch.Generator().manual_seed(0)
    sizes = {"dim": DIM, "hidden": HIDDEN, "dropout": 0.2}
    network = NeuralCTR(kind, SIZES, numbers.shape[1], **sizes, generator=generator).eval()
    same = SAME[kind](weights_of(kind, stored))
    missing, unknown = network.load_state_dict(same, strict=False)
    assert unknown == []
    # first-order terms are zero until they are trained; FuxiCTR's DCNv2 and FinalMLP have none, its AutoInt no bias
    assert set(missing) <= {"offsets", "bias", "first.weight", "first_numbers", *(() if len(numbers[0]) else UNUSED)}
    with torch.no_grad():
        found = network(stored["categories"], numbers)
    expected = stored[f"{kind}/logits"]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert expected.std() > 1.0


def test_every_kind_of_the_field_is_held_against_it():
    assert set(SAME) == set(get_args(NeuralKind)) - {"logistic"}
