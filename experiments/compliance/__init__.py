"""Compliance reports: what a run guarantees, by the questions that auditors ask; signed, and checked again."""
