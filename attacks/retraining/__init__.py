"""A market's pipeline trained again, on some of its rows or users."""
