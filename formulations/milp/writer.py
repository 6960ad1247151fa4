"""Rows and columns of a network while they are collected."""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray


class RowWriter:
    """Rows and columns as they are collected.

    Expressions are dense rows over "slots": the action columns, then the neuron columns.
    """

    def __init__(self, n_actions: int, lower: FloatArray, upper: FloatArray, capacity: int):
        self.n_slots = n_actions
        self.capacity = capacity
        self.lower = np.concatenate([lower, np.zeros(capacity - n_actions)])
        self.upper = np.concatenate([upper, np.zeros(capacity - n_actions)])
        self.integer = np.zeros(capacity, dtype=bool)
        self.rows: list[FloatArray] = []
        self.row_lower: list[FloatArray] = []
        self.row_upper: list[FloatArray] = []
        self.neurons: list[tuple[IntArray, IntArray, IntArray]] = []
        self.copies: list[tuple[IntArray, FloatArray, int]] = []

    def columns(self, low: FloatArray, high: FloatArray, integer: bool = False) -> IntArray:
        """Add columns within bounds; return their slots."""
        start, end = self.n_slots, self.n_slots + len(low)
        self.lower[start:end], self.upper[start:end] = low, high
        self.integer[start:end] = integer
        self.n_slots = end
        return np.arange(start, end)

    def add(self, rows: FloatArray, low: FloatArray | float, high: FloatArray | float) -> None:
        """Add rows ``low <= rows @ slots <= high``, shape (rows, capacity)."""
        if len(rows):
            self.rows.append(rows)
            self.row_lower.append(np.broadcast_to(low, len(rows)))
            self.row_upper.append(np.broadcast_to(high, len(rows)))
