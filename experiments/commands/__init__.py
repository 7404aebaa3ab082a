"""The commands of ``fedmm``, as a user types them."""
