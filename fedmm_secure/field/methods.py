"""What markets share in a federated baseline, and what keeps a market near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedmm_secure.config.choices import FieldName
from fedmm_secure.ctr.models.networks import NeuralCTR


@dataclass(frozen=True)
class Method:
    """How markets train the dense part of a network together; embedding tables, those of ids, stay at home.

    Attributes:
        pulls: weight of half the squared distance to what the server sent, one for each of tuning's tries.
        personal: whether a market predicts with a second network, which is pulled and never sent (Ditto); otherwise
            the one that is sent is pulled (FedProx), if at all.
        home: beginnings of the names of further parameters that stay at home, and train in passes of their own.
    """

    pulls: Sequence[float] = (0.0, 0.0, 0.0)
    personal: bool = False
    home: tuple[str, ...] = ()

    def shared(self, network: NeuralCTR) -> list[str]:
        """Names of the parameters that are sent."""
        tables = set(map(id, network.table_parameters()))
        return [
            name
            for name, parameter in network.named_parameters()
            if id(parameter) not in tables and not name.startswith(self.home or ("\0",))
        ]


METHODS: Mapping[FieldName, Method] = {
    # McMahan et al., AISTATS 2017
    "fedavg": Method(),
    # Li et al., MLSys 2020
    "fedprox": Method(pulls=(0.01, 0.1, 1.0)),
    # Li et al., ICML 2021
    "ditto": Method(pulls=(0.1, 1.0, 0.01), personal=True),
    # Collins et al., ICML 2021: the representation is shared, the head is not
    "fedrep": Method(home=("head", "bias", "first_numbers")),
}
