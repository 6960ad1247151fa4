"""Restless bandits with constraints on the arms acted on: five domains."""
