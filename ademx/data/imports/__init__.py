"""Datasets made from what annotation tools write."""

# The modules that other rooms may import.
__all__ = ["coco", "labelme", "write"]
