"""A detector behind HTTP: images in requests → detections in JSON. It runs `detector.onnx` without PyTorch."""
