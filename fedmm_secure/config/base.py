"""What every section of a configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

LARGEST_SEED = 2**63 - 1


class Section(BaseModel):
    """Keys with types, defaults and meanings; an unknown key is refused, and nothing changes later.

    Every number has an upper bound, and every list: whoever reads a run trains, plans and generates by what its maker
    wrote.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
