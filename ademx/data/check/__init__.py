"""What is wrong with a dataset on disk."""

# The modules that other rooms may import.
__all__ = ["dataset", "problems"]
