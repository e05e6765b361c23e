"""Annotations and image files → batches; proposals to and from disk. No module here depends on a network."""
