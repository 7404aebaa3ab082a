"""A market as a service: what it answers to a server that asks over the network."""
