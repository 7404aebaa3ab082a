"""Pages for readers: of a run, of a sweep, and for auditors."""
