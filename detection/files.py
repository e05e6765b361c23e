"""Atomic writing (one implementation for the whole project)."""

from backbones.files import CannotWrite, atomic_write

__all__ = ["CannotWrite", "atomic_write"]
