"""What a run leaves: metrics, codes, models, predictions, and scores from them."""
