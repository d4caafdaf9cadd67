"""The unravelled view of trained networks: which lengths of paths their gradients take."""

# The modules that other rooms may import.
__all__ = ["figure", "found", "measure", "options", "run"]
