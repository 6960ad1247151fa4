"""Policies to compare with: null, random, myopic, iterative."""
