"""Adapters for other libraries (hosts): one module per host, importable only where the host is installed.

    torchvision_detection   FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS: FPN, one map, or C4
    segmentation            torchvision's DeepLabV3 and FCN
    transformers_backbone   DETR, Deformable DETR, RT-DETR … (transformers 5)
    timm_features           timm's feature extractors: feature_info, out_indices, a list of maps
    detectron2_backbone     detectron2: res2 … res5
    mmdetection_backbone    MMDetection 3: out_indices, frozen_stages, norm_eval

All treat pixels in the same way: a backbone is given the host's input format (by default the host's default) and
converts its input into the format of its weights (`host_input`). So weights of any source work in any host.

This file imports none of them.
"""
