"""The objects of a split → label files, one writer for each format."""
