"""Texts that files state and nothing else gives: each has one form, for one without has room for rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from privacy.names import NAME_PATTERN

PartyName = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{4}( [0-9a-f]{4}){7}$")]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00$")]  # UTC
