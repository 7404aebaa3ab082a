"""Models of one architecture trained side by side: one pass over stacked parameters serves all of them.

For experiments that train a pipeline many times on parts of the data. Small networks spend most of a step on
overhead, which stacked models share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from fedmm_secure.config.choices import DeviceName
from fedmm_secure.devices import deterministic, ready

Forward = Callable[..., Tensor]
ModelLoss = Callable[..., Tensor]


class SideBySide:
    """``n`` modules whose parameters are stacked along a first axis.

    Args:
        modules: of one architecture; copied.
        optimizer_groups: maps named stacked parameters to the optimizer's groups.
        learning_rate: Adam's step size.
        device: where they train; what goes in and comes out is on it.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        learning_rate: float,
        device: DeviceName = "cpu",
        optimizer_groups: Callable[[Mapping[str, Tensor]], list[dict[str, object]]] | None = None,
    ) -> None:
        stacked, buffers = stack_module_state(list(modules))
        self._template, self.device = modules[0], ready(device)
        self.parameters: dict[str, Tensor] = {
            name: value.detach().to(self.device, copy=True).requires_grad_(True) for name, value in stacked.items()
        }
        self._buffers = {name: value.to(self.device) for name, value in buffers.items()}
        self._learning_rate, self._groups = learning_rate, optimizer_groups
        self._optimizer = self._new_optimizer()

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def step(self, loss: ModelLoss, inputs: Sequence[Tensor], *, shared: Sequence[bool] | None = None) -> Tensor:
        """One Adam step of every module on its own batch; returns losses ``(n,)``.

        Args:
            loss: maps (forward, *inputs of one module) to a scalar, where ``forward`` is the module.
            inputs: ``(n, …)`` each, or without the first axis where ``shared``.
            shared: which inputs are the same for all modules.
        """
        self._template.train()
        self._optimizer.zero_grad()
        with deterministic(self.device):
            losses = self._mapped(loss, inputs, shared)
            losses.sum().backward()
        self._optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def evaluate(self, function: ModelLoss, inputs: Sequence[Tensor]) -> Tensor:
        """``function`` of every module in evaluation mode, ``(n, …)``."""
        self._template.eval()
        return self._mapped(function, inputs, None)

    def state_dict(self, index: int) -> dict[str, Tensor]:
        """Parameters and buffers of one module, on the processor."""
        everything = {**self.parameters, **self._buffers}
        return {name: value[index].detach().to("cpu", copy=True) for name, value in everything.items()}

    def keep(self, index: Tensor) -> None:
        """Go on with the modules at ``index (k,)`` alone; the optimizer's state goes with them."""
        index = index.to(self.device)
        old = {name: self._optimizer.state.get(value, {}) for name, value in self.parameters.items()}
        self.parameters = {
            name: value.detach()[index].clone().requires_grad_(True) for name, value in self.parameters.items()
        }
        self._buffers = {name: value[index] for name, value in self._buffers.items()}
        self._optimizer = self._new_optimizer()
        for name, value in self.parameters.items():
            self._optimizer.state[value] = {
                key: kept[index].clone() if kept.dim() else kept for key, kept in old[name].items()
            }

    def _new_optimizer(self) -> torch.optim.Adam:
        groups = self._groups(self.parameters) if self._groups else [{"params": list(self.parameters.values())}]
        return torch.optim.Adam(groups, lr=self._learning_rate, fused=True)

    def _mapped(self, function: ModelLoss, inputs: Sequence[Tensor], shared: Sequence[bool] | None) -> Tensor:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *values: Tensor) -> Tensor:
            def forward(*arguments: object) -> Tensor:
                return functional_call(self._template, (parameters, buffers), arguments)  # type: ignore[no-any-return]

            return function(forward, *values)

        shared = shared or [False] * len(inputs)
        axes = (0, 0, *(None if same else 0 for same in shared))
        result = vmap(one, in_dims=axes, randomness="same")(self.parameters, self._buffers, *inputs)
        return torch.as_tensor(result)
