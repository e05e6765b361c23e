"""Results of an evaluation → HTML pages and images."""
