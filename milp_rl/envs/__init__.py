"""Gymnasium environments with combinatorial actions."""
