"""Ways to bound what one example adds to a sum."""

from typing import Literal

Clipping = Literal["flat", "automatic"]
