"""Networks run and trained by MXNet."""

# The modules that other rooms may import.
__all__ = ["predict", "server", "train"]
