"""By hand, on dicts of arrays."""
