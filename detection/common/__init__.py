"""Helpers for several packages of detection/: streamed JSON, core YAML, stateless random numbers, and others."""
