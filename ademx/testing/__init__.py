"""A split from files to scores: classification, segmentation, runs and their comparison."""

# The modules that other rooms may import.
__all__ = [
    "cityscapes",
    "classification",
    "compare",
    "crf",
    "evaluate",
    "finished_runs",
    "image_counts",
    "memory",
    "numerics",
    "options",
    "record",
    "score_maps",
    "scorer",
    "segmentation",
    "session",
    "submissions",
    "tiles",
]
