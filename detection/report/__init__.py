"""Pages and images for people."""
