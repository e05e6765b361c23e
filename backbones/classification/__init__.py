"""Pictures with one label each, and what a classifier is trained and measured by, beside the training loop.

pictures.py, cifar_archives.py   folders and archives → pictures and labels
augmentation.py                  a picture → what the network learns from
views.py                         a picture → the crops, at one size or several, that a test averages over
scores.py                        views → class scores; scores and labels → top-k error
"""
