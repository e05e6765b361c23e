"""COCO on the disk: downloading it, and finding its splits.

    layout            where the files of a split are
    parts             what COCO consists of, and the archives that contain it
    prepare           downloads and unpacks what is missing
    archives          unpacks a zip archive safely
    derived_splits    makes trainval35k and minival from the 2014 files

The command line is `tools/prepare_coco.py`.
"""
