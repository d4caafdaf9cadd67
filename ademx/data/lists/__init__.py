"""The release's lists, from each dataset's official distribution."""

# The modules that other rooms may import.
__all__ = ["label_files", "pascal_context", "plans", "write"]
