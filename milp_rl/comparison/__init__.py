"""Comparing solvers: running them side by side, and reporting on it."""
