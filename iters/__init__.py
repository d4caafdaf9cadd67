"""The data: datasets' classes and labels, lists of files, transforms, iterators."""
