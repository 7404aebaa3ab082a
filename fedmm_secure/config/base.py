"""What every section of a configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys with types, defaults and meanings; an unknown key is refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)
