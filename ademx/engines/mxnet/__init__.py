"""Networks run and trained by MXNet."""

# The modules that other rooms may import.
__all__ = ["memory", "predict", "server", "train"]
