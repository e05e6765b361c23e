"""Trains and evaluates the classifiers whose weights detectors start from.

It combines `backbones/classification/` (images and labels, views, top-k error) with the training loop, the loader and
the configuration of the detectors. Nothing here uses boxes.
"""
