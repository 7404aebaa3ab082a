"""What ``fedmm bench`` measures: ways to do the same thing, in turn, in one process."""
