"""Sweeps: many runs from one grid, on several processes, resumed after a kill, gathered in one table."""
