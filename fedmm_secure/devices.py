"""Where RQ-VAEs and networks train: the processor, or one GPU.

A model is on the device while it trains, and on the processor before and after: what is kept, sent, published, encoded
and scored is computed in one place, whatever trained it. Public randomness, the order of rows say, is drawn on the
processor too, so that both train on the same batches; private randomness comes from the stream cipher alone.

On a GPU every kernel is a deterministic one, and products of single precision are of single precision: no TF32. What
DP-SGD asks beyond that it measures on the device (``privacy.mechanisms.device_checks``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedmm_secure.config.choices import DeviceName, DeviceSetting
from fedmm_secure.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

# read when a process first uses a GPU: a workspace of one size, so that the same product is computed in the same way;
# products of double precision in double precision, and those of single precision likewise
_STEERING = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "CUBLAS_EMULATE_DOUBLE_PRECISION": "0",
    "NVIDIA_TF32_OVERRIDE": "0",
}


def chosen_device(setting: DeviceSetting) -> DeviceName:
    """What a setting means on this machine.

    Raises:
        ConfigError: it wants a GPU, and PyTorch finds none.
    """
    if setting == "cpu":
        return "cpu"
    import torch  # by whoever trains, or says what trained

    if torch.cuda.is_available():
        return "cuda"
    if setting == "cuda":
        raise ConfigError("device: cuda: PyTorch finds no GPU here; set device: auto or cpu")
    return "cpu"


def devices_here() -> tuple[DeviceName, ...]:
    """Whatever models can train on here."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def device_record(setting: DeviceSetting) -> str:
    """What trains here, as far as the last bits of results may hang on it: ``cpu``, or the GPU and its libraries."""
    if chosen_device(setting) == "cpu":
        return "cpu"
    import torch

    ready("cuda")  # its variables are among what tells one kind of machine from another
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} {major}.{minor} CUDA {torch.version.cuda}"


def ready(name: DeviceName) -> torch.device:
    """The device, its libraries told to compute one thing in one way."""
    import torch

    if name == "cuda":
        os.environ.update(_STEERING)
        torch.set_float32_matmul_precision("highest")
    return torch.device(name)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU, kernels whose result depends on no order of execution; there is no other kind on the processor."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def training_on(name: DeviceName, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Iterator[torch.device]:
    """A module, and what its optimizers remember, on the device for as long as it trains; on the processor after.

    Within itself it does nothing more.
    """
    device = ready(name)
    if all(parameter.device.type == device.type for parameter in module.parameters()):
        yield device
        return
    _move(device, module, optimizers)
    try:
        with deterministic(device):
            yield device
    finally:
        _move(ready("cpu"), module, optimizers)


def _move(device: torch.device, module: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
    module.to(device)  # parameters stay the same objects
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if key != "step" and hasattr(value, "to"):  # numbers of steps stay where Adam keeps them
                    state[key] = value.to(parameter.device)
