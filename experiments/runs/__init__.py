"""What is done with runs: configure, execute, track, list, compare."""
