"""Training and measuring the classifiers that detectors start from.

The place that joins `backbones/classification/` (images and labels, views, top-k error) with the loop, the loader and
the configuration that the detectors are trained by; nothing of boxes is used here.
"""
