"""Learners compared on environments with combinatorial actions: `python -m benchmarks.learners`."""
