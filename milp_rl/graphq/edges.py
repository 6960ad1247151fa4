"""What the edges of a dependency graph are, for whoever estimates, holds or draws one."""

from __future__ import annotations

from dataclasses import dataclass

Edge = tuple[str, str]
"""An edge by the names of its two ends: from an intervention or a variable, to a variable."""


@dataclass(frozen=True)
class Interaction:
    """Two interventions that do something together to a variable, beyond what each does alone.

    Parameters
    ----------
    first, second
        The interventions' positions, ``first < second``.
    variable
        The variable's position.
    weight
        Strength, signed.
    """

    first: int
    second: int
    variable: int
    weight: float
