"""Downloads COCO and finds the files of its splits.

    layout            finds the files of a split
    parts             COCO's parts, and the archive that contains each
    prepare           downloads and unpacks what is missing
    archives          unpacks a zip archive safely
    derived_splits    makes trainval35k and minival from the 2014 files

The command line is `tools/prepare_coco.py`.
"""
