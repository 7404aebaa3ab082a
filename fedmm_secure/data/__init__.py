"""Market data: loaders, schema checks, splits, candidate pools, negative sampling, synthetic markets."""
