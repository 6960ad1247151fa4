"""Combinatorial subproblems of the blocks, by their textbook names."""
