"""Names of formulations and of strengths of bounds; importing them costs nothing."""

from typing import Literal

Formulation = Literal["bigm", "partition"]
Strength = Literal["interval", "linear", "lp"]
