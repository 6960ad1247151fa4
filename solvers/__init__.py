"""Solvers for the constrained argmax, and the one place where results are certified."""
