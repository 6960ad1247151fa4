"""Argmaxes without proof: greedy, gradient ascent, cross-entropy."""
