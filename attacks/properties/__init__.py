"""What models tell of a market as a whole."""
