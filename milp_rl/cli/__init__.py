"""The command ``milp-rl``."""
