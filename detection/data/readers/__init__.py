"""Readers of label files, one a format, each into the tables of `detection.data.tables`."""
