"""The commands of ``fedmm``: one module each. Nothing but the entry point imports them."""
