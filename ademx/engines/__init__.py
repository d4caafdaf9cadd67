"""What computes networks: MXNet, PyTorch, onnxruntime."""

# The modules that other rooms may import.
__all__ = ["backends", "mxnet", "onnx", "sharing", "torch", "trainer"]
