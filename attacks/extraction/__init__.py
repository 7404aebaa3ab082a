"""Copies of a model that answers queries, made from its answers."""
