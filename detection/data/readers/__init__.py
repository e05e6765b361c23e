"""A label file → the tables of `detection.data.tables`; one reader for each format."""
