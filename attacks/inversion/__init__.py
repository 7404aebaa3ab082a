"""What can be read out of codebooks and their updates."""
