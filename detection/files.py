"""Atomic writing (one implementation for the whole project)."""

from backbones.files import atomic_write

__all__ = ["atomic_write"]
