"""Linear models: compiled from Pyomo, and the rows that a network adds to them."""
