"""CTR features, models, training, metrics, baselines."""
