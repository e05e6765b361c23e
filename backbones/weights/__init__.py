"""Pretrained weights: where they lie, how they are fetched and checked, and one reader for each format."""
