"""Datasets on disk: their lists, what is wrong with them, and small drawn ones in their place."""
