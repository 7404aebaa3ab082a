"""How things look, on the terminal, in figures and in pages."""
