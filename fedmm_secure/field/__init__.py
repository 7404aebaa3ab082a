"""Baselines of the field: networks that markets train together without codes and without a guarantee."""
