"""Joins the rooms: from a configuration to data sets, networks, trainings, proposals, detections and figures."""
