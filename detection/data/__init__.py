"""Annotations and image files → batches; proposals to and from disk. Knows nothing of networks."""
