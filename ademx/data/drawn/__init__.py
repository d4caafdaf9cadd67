"""Small drawn datasets in the layouts of the real ones."""

# The modules that other rooms may import.
__all__ = ["make"]
