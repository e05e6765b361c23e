"""Backbones at home in other people's detectors: one file a host, importable only where the host is installed.

    torchvision_detection   FasterRCNN, MaskRCNN, KeypointRCNN, RetinaNet, FCOS: FPN, one map, or C4
    segmentation            torchvision's DeepLabV3 and FCN
    transformers_backbone   DETR, Deformable DETR, RT-DETR … (transformers 5)
    timm_features           timm's feature extractors: feature_info, out_indices, a list of maps
    detectron2_backbone     detectron2: res2 … res5
    mmdetection_backbone    MMDetection 3: out_indices, frozen_stages, norm_eval

All follow one rule about pixels: a backbone is told what the host feeds it, by default what the host feeds by default,
and brings it into the convention of its weights itself (`host_input`). Weights of any source are right in any host.

This file imports none of them.
"""
