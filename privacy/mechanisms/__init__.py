"""Mechanisms: they bound sensitivity and add noise. None of them computes ε."""
