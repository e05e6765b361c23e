"""A configuration that is built up value by value, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detection import config as settings
from detection.commented_yaml import changed_values, commented_yaml
from detection.experiment.paces import Paces

# Sections whose reason serves for the keys below them; other keys, such as data.split, are written as one value.
_SECTIONS = {"data", "backbone", "rpn", "fast_rcnn", "runtime", "rpn.training", "fast_rcnn.training"}


@dataclass
class ReasonedConfig:
    """A configuration; full key → reason; the keys that were given, which stay; the heading of the file; and the times
    that were measured, if any."""

    config: settings.Config
    reasons: dict[str, str]
    given: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    paces: Paces | None = None

    def text(self) -> str:
        """The commented YAML file."""
        values = changed_values(self.config, [key for key in self.reasons if key not in _SECTIONS])
        return commented_yaml(values, self.reasons, "\n".join(self.notes))

    def change(self, reason: str, **values: Any) -> None:
        """Sets keys, with `__` in place of dots, for a reason; those that were given stay."""
        for name, value in values.items():
            key = name.replace("__", ".")
            if not any(one == key or one.startswith(f"{key}.") for one in self.given):
                self.config = _set(self.config, key.split("."), value)
                self.reasons[key] = reason


def _set(config: Any, keys: Sequence[str], value: Any) -> Any:
    if len(keys) > 1:
        value = _set(getattr(config, keys[0]), keys[1:], value)
    return dataclasses.replace(config, **{keys[0]: value})
