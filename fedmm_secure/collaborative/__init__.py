"""Collaborative-filtering embeddings and scores of users and items."""
