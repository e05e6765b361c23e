"""Images with one label each, and what a classifier is trained and measured by, beside the training loop.

images.py, cifar_archives.py   folders and archives → images and labels
augmentation.py                  an image → what the network learns from
views.py                         an image → the crops, at one size or several, that a test averages over
scores.py                        views → class scores; scores and labels → top-k error
"""
