"""Solving Pyomo models of a user's own in which networks and spaces are embedded."""
