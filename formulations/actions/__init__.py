"""Action spaces: feasible sets as constraint blocks that compose with ``&``."""
