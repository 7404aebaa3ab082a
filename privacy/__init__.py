"""What makes a release safe: mechanisms, accounting and secure aggregation. Knows nothing of FedMM."""
