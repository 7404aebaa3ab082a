"""A market that starts from what a federation left, before it is a party of it."""
