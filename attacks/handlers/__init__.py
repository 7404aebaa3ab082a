"""Somebody else's recommender, brought by three functions in a file, and run in a process of its own."""
