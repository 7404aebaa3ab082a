"""What markets share in a federated baseline, and what keeps a market near it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fedmm_secure.config.choices import FieldName
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.field.coded import ITEM_CODE


@dataclass(frozen=True)
class Method:
    """How markets train the dense part of a network together; embedding tables, those of ids, stay at home.

    Attributes:
        pulls: weight of half the squared distance to what the server sent, one for each of tuning's tries.
        personal: whether a market predicts with a second network, which is pulled and never sent (Ditto); otherwise
            the one that is sent is pulled (FedProx), if at all.
        home: beginnings of the names of further parameters that stay at home, and train in passes of their own.
        tables: beginnings of the names of fields whose rows of the tables are sent too, one after the other.
    """

    pulls: Sequence[float] = (0.0, 0.0, 0.0)
    personal: bool = False
    home: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    def shared(self, network: NeuralCTR, schema: FeatureSchema) -> dict[str, slice]:
        """Parameters that are sent, by name, and which of their rows."""
        tables = set(map(id, network.table_parameters()))
        rows = self._rows(schema)
        found: dict[str, slice] = {}
        for name, parameter in network.named_parameters():
            if id(parameter) in tables:
                found |= {name: rows} if rows.stop else {}
            elif not name.startswith(self.home or ("\0",)):
                found[name] = slice(None)
        return found

    def _rows(self, schema: FeatureSchema) -> slice:
        """Of the tables, those of the fields that are sent; empty where none is."""
        ends = list(accumulate(schema.cardinalities))
        sent = [place for place, name in enumerate(schema.category_names) if name.startswith(self.tables or ("\0",))]
        if not sent:
            return slice(0, 0)
        if sent != list(range(sent[0], sent[-1] + 1)):
            raise ValueError(f"fields that are sent do not stand together: {schema.category_names}")
        return slice(ends[sent[0]] - schema.cardinalities[sent[0]], ends[sent[-1]])


METHODS: Mapping[FieldName, Method] = {
    # McMahan et al., AISTATS 2017
    "fedavg": Method(),
    # Li et al., MLSys 2020
    "fedprox": Method(pulls=(0.01, 0.1, 1.0)),
    # Li et al., ICML 2021
    "ditto": Method(pulls=(0.1, 1.0, 0.01), personal=True),
    # Collins et al., ICML 2021: the representation is shared, the head is not
    "fedrep": Method(home=("head", "bias", "first_numbers")),
    # after Han et al., arXiv 2601.18570, see ``with_item_codes``: items are codes, whose vectors are shared
    "rqfedrec-like": Method(tables=(ITEM_CODE,)),
}
