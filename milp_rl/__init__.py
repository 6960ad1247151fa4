"""Exact argmax over combinatorial action sets for reinforcement learning."""
