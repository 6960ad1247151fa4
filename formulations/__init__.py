"""Networks, action spaces, bounds and formulations for Pyomo models."""
