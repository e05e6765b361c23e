"""Pure tensor functions on boxes, without parameters, state or Python loops over images or boxes.

Boxes are float32 `(x0, y0, x1, y1)` in pixels of the image they lie on, half-open, without the historical +1.
Shapes: N images, A anchors (of a whole image unless said otherwise), G ground-truth boxes, R regions, P bins along a
side, K classes.
"""
