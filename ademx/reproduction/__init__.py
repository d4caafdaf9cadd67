"""Published rows tested again and recipes trained again: inputs, tolerance, verdicts."""

# The modules that other rooms may import.
__all__ = ["inputs", "options", "outcomes", "recipes", "rows", "stages", "tolerance"]
