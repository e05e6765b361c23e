"""Values of a configuration and the reason for each → a commented YAML file that `load_config` reads."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from detection.common.core_yaml import dump_yaml
from detection.config import Config
from detection.config_file import config_to_dict

_WIDTH = 120


def changed_values(config: Config, always: Sequence[str] = ()) -> dict[str, Any]:
    """Full key → value of everything that differs from the defaults, and of the keys in `always`, in the order of
    `detection/config.py`. `always` may name a section that is written as one value ("data.split")."""
    found: dict[str, Any] = {}

    def compare(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict) and isinstance(defaults[key], dict) and name not in always:
                compare(value, defaults[key], f"{name}.")
            elif value != defaults[key] or name in always:
                found[name] = value

    compare(config_to_dict(config), config_to_dict(Config()), "")
    return found


def commented_yaml(values: Mapping[str, Any], reasons: Mapping[str, str], heading: str) -> str:
    """A YAML text with a comment at each value.

    Args:
        values: full key → value, keys of a section one after the other.
        reasons: full key → why; that of a section serves for the keys below it that have none.
        heading: the text above, without "#".

    Raises:
        KeyError: a value has no reason.
    """
    lines = [f"# {line}".rstrip() for text in heading.splitlines() for line in textwrap.wrap(text, _WIDTH - 2) or [""]]
    above: list[str] = []
    for name, value in values.items():
        *sections, key = name.split(".")
        shared = 0
        while shared < min(len(sections), len(above)) and sections[shared] == above[shared]:
            shared += 1
        if not shared and (sections or above):
            lines.append("")
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(shared, len(sections))]
        above = sections
        lines += _lines(f"{'  ' * len(sections)}{key}: {_flow(value)}", _reason(name, reasons), "  " * len(sections))
    return "\n".join(lines) + "\n"


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    key = name
    while key not in reasons and "." in key:
        key = key.rpartition(".")[0]
    if key not in reasons:
        raise KeyError(f"{name} has no reason")
    return " ".join(reasons[key].split())


def _lines(text: str, reason: str, indent: str) -> list[str]:
    """The value with its reason behind it, or above it where that is too long."""
    if len(text) + len(reason) + 4 <= _WIDTH:
        return [f"{text:<36}  # {reason}"] if len(reason) + 40 <= _WIDTH else [f"{text}  # {reason}"]
    return [*(f"{indent}# {line}" for line in textwrap.wrap(reason, _WIDTH - len(indent) - 2)), text]


def _flow(value: Any) -> str:
    """The value in one line, as YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return str(int(value))  # a whole number serves as a float
    text = dump_yaml([value]).strip()
    if text.startswith("["):  # dumped in flow style, as it will stand here
        return text[1:-1]
    return text.removeprefix("- ")
