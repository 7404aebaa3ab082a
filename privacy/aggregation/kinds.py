"""What the kinds of aggregation have and lack, for whoever builds on one: ask a trait, and never for a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """Traits of a kind of aggregation.

    Attributes:
        server_reads_updates: whether updates reach the server in the clear.
        hides_single_updates: whether who holds the shared key still opens no single update, but the sum of all; then no
            market may be missing from a sum, for colluders sign two cohorts as easily as one.
    """

    server_reads_updates: bool = False
    hides_single_updates: bool = False

    @property
    def opened_by(self) -> str | None:
        """The view that sees single updates; None where that takes more than the server and one market."""
        if self.server_reads_updates:
            return "server"
        return None if self.hides_single_updates else "collusion"

    @property
    def needs_whole_cohort(self) -> bool:
        """Whether a sum is over all markets of the federation or none."""
        return self.hides_single_updates


TRAITS = {
    "plaintext": Traits(server_reads_updates=True),
    "ckks": Traits(),
    "masked-ckks": Traits(hides_single_updates=True),
}
