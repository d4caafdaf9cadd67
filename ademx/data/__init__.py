"""Datasets on disk: their lists, imports of one's own, what is wrong with them, drawn ones."""

# The modules that other rooms may import.
__all__ = ["record_index"]
