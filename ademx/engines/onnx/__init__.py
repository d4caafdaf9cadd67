"""Networks run by onnxruntime."""

# The modules that other rooms may import.
__all__ = ["predict"]
