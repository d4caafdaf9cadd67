"""Datasets on disk: their lists, what is wrong with them, and small drawn ones in their place."""

# The modules that other rooms may import.
__all__ = ["record_index"]
