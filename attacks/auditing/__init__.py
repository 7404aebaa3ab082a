"""Empirical lower bounds on ε, and whether a claim stands up to them."""
