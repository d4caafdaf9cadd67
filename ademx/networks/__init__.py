"""A label's network: its graph, its layers and their shapes, costs and memory, its picture."""

# The modules that other rooms may import.
__all__ = ["drawing", "graph", "summary", "unravel"]
