"""A market that moves the global codebook against the others."""
