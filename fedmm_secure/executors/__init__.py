"""Where independent tasks run: processes of this machine, or the workers of a cluster."""
