"""Was this interaction (or user) in the training data?"""
