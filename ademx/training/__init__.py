"""Training: options, the run and its checkpoints, progress, curves, several workers."""

# The modules that other rooms may import.
__all__ = ["checkpoints", "curves", "launch", "options", "progress", "run"]
