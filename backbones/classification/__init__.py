"""Images with one label each, their augmentation, and the measures of a classifier.

labelled_images.py, cifar_archives.py    folders and archives → images and labels
random_view.py                           an image → the augmented crop that the network is trained on
views.py                                 an image → the crops, at one size or several, that a test averages over
scores.py                                views → class scores; scores and labels → top-k error
"""
