"""FedMM on Flower: adaptors between Flower's messages and the parties' own processes."""
