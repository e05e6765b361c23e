"""COCO on the disk: getting it there, and finding its splits.

`layout` tells where a split lies, `parts` what COCO consists of, `prepare` fetches what is missing, `archives` unpacks
it, and `splits` makes trainval35k and minival out of the 2014 files. The command line is `tools/prepare_coco.py`.
"""
