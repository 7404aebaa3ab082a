"""Adversaries against the federation and its models. They work from views, never from the insides."""
