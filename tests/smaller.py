"""Configurations of the documentation, on models that train in a second: changed below what a reader types."""


def smaller(values, changes):
    """A configuration with the changes, section by section; what has a budget keeps it."""
    found = dict(values)
    for key, change in changes.items():
        found[key] = smaller(found.get(key) or {}, change) if isinstance(change, dict) else change
    return found
