"""Heads that markets grow together from summed histograms, over features that name no id."""
