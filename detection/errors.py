"""The error that is meant for the person at the keyboard (one class for the whole project)."""

from backbones.errors import UserError

__all__ = ["UserError"]
