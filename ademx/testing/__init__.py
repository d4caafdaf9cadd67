"""A split from files to scores: classification, segmentation, runs and their comparison."""

# The modules that other rooms may import.
__all__ = [
    "checks",
    "cityscapes",
    "compare",
    "crf",
    "evaluate",
    "finished_runs",
    "image_counts",
    "numerics",
    "options",
    "record",
    "score_maps",
    "scorer",
    "session",
    "submissions",
    "tiles",
]
