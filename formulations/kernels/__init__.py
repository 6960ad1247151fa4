"""Compiled loops: what branch and bound does for each node, without an array operation per step.

An array operation of numpy costs a microsecond however short its arrays are, and a node of a small
network takes hundreds of them. The functions of this folder take a node at a time in plain loops,
which numba compiles the first time they are called; what it made is kept on disk for later
processes. They are imported only where a search begins, so that ``import milp_rl`` does not wait
for numba. Beside each stands a path in numpy, for spaces whose oracle is not compiled and for wide
networks, whose matrix products are faster there; both give the same answers up to rounding.
"""
