"""RQ-VAE, codebooks, codes."""
