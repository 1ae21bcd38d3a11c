"""Models on more events than memory holds: from files, arrays and collections of Dask, on all cores or on a cluster."""

CHUNK = 50_000
"""Rows that are done at a time where nothing else is said."""
