"""Attacks and audits on finished runs: what each of them is, how it is made, what it found."""
