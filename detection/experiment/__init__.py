"""A configuration → data sets, networks, trainings, proposals, detections and figures: combines the other packages."""
