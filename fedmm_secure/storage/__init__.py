"""Files that outlast a run: how they are written, where they lie, and what is shared between runs."""
