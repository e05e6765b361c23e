"""Pretrained weights: the table of sources, download and checks, and one reader for each format."""
