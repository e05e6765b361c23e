"""A trained detector → one file that detects outside of this project, and the runtime that runs it without PyTorch."""
