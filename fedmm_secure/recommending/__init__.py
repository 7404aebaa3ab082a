"""Top items for users of a market, from what a run left."""
