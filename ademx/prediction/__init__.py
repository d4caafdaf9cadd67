"""Labels for pictures of one's own."""

# The modules that other rooms may import.
__all__ = ["images", "legend"]
