"""Whose membership is asked about."""

from __future__ import annotations

from typing import Literal, get_args

Unit = Literal["interaction", "user"]
UNITS: tuple[Unit, ...] = get_args(Unit)
