"""Networks run and trained by PyTorch."""

# The modules that other rooms may import.
__all__ = ["predict"]
