"""The page that people look at: one HTML file for a test run."""

# The modules that other rooms may import.
__all__ = ["page"]
