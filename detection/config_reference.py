"""`detection/config.py` → docs/configuration.md and configuration.schema.json: all keys, defaults, ranges, comments.

    python -m detection.config_reference            writes both
    python -m detection.config_reference --check    exit status 1 if a file is not what would be written

The comments are read from the source: those above a field and at the end of its line. The schema (JSON Schema 2020-12)
lets editors complete keys and mark wrong values.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import sys
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detection import config as settings
from detection.config_file import config_to_dict

DOCS = Path(__file__).resolve().parent.parent / "docs"
FILES = {"configuration.md": lambda: markdown(), "configuration.schema.json": lambda: schema_text()}

_HEADING = """# Configuration

Every key of a configuration file, with its default. `rpn.training.steps` is the key `steps` in the section `training`
of the section `rpn`. `python tools/new_config.py --data DIR` writes a file with values that fit your data.
`rpn.training.steps=9000` on the command line changes a value. `base:` names another file, relative to this one, or a
preset such as `configs/small/base.yaml`, found from any folder; its values hold where this file states none.
`--print-config` of a training tool prints the whole configuration.

Editors with a YAML language server complete and check keys if a file begins with the line
`# yaml-language-server: $schema=path/to/docs/configuration.schema.json`. This page is generated from
`detection/config.py` by `python -m detection.config_reference`.
"""


@dataclass(frozen=True)
class Key:
    """One key: its full name ("rpn.training.steps"), type, default as plain value, bounds, and comment."""

    name: str
    hint: Any
    default: Any
    metadata: dict[str, Any]
    comment: str


def keys_of(kind: type, prefix: str = "", default: Any = None) -> Iterator[Key]:
    """All keys of a configuration's dataclass, those of its sections included, in the source's order."""
    hints, comments = typing.get_type_hints(kind), comments_of(kind)
    default = kind() if default is None else default
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys_of(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.", value)
        else:
            plain = config_to_dict(_Holder(value))["value"]
            yield Key(f"{prefix}{field.name}", hints[field.name], plain, dict(field.metadata), comments[field.name])


@dataclass(frozen=True)
class _Holder:
    value: Any


def comments_of(kind: type) -> dict[str, str]:
    """Field → the comment above it and at the end of its line; empty if it has none."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    texts: dict[int, str] = {}
    own_line: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts[token.start[0]] = token.string.lstrip("# ").strip()
            if lines[token.start[0] - 1].strip().startswith("#"):
                own_line.add(token.start[0])
    found = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in own_line:
                first -= 1
            parts = [texts[line] for line in range(first, (node.end_lineno or node.lineno) + 1) if line in texts]
            found[node.target.id] = " ".join(parts)
    return found


def markdown() -> str:
    """The page."""
    sections: dict[str, list[Key]] = {}
    for key in keys_of(settings.Config):
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    parts = [_HEADING]
    for name, keys in sections.items():
        heading = "| key | default | values | meaning |\n| --- | --- | --- | --- |"
        parts.append(f"\n## {name or 'The experiment'}\n\n{heading}")
        for key in keys:
            cells = (f"`{key.name}`", f"`{_yaml(key.default)}`", _values(key), key.comment)
            parts.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    """A default as YAML shows it."""
    return json.dumps(value, ensure_ascii=False)


def _values(key: Key) -> str:
    """The values that a key takes, in words."""
    text = _words(key.hint)
    if "low" in key.metadata:
        text += f", {_number(key.metadata['low'])} to {_number(key.metadata['high'])}"
    return text


def _number(value: float) -> str:
    """
    >>> _number(0.001), _number(32768), _number(2**62)
    ('0.001', '32,768', '2^62')
    """
    if isinstance(value, int) and value >= 2**53 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in arguments)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        count = "list" if arguments[-1] is Ellipsis else f"{len(arguments)}"
        return f"{count} of {_words(arguments[0])}"
    if origin is dict:
        return "keys and values"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names[hint]


def schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a detector",
        **_object(),
    }
    root["properties"]["base"] = {"type": "string", "description": "Another configuration, relative to this file."}
    for key in keys_of(settings.Config):
        *sections, name = key.name.split(".")
        place = root
        for section in sections:
            place = place["properties"].setdefault(section, _object())
        described = {"description": key.comment, "default": key.default} | _schema_of(key.hint, key.metadata)
        place["properties"][name] = described
    return root


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _schema_of(hint: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(one, metadata) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        most = metadata.get("most", settings.LENGTH)
        is_free = arguments[-1] is Ellipsis
        sizes = {"maxItems": most} if is_free else {"minItems": len(arguments), "maxItems": len(arguments)}
        return {"type": "array", "items": _schema_of(arguments[0], metadata), **sizes}
    if origin is dict:
        return {"type": "object"}
    if hint in (int, float):
        bounds = {"minimum": metadata["low"], "maximum": metadata["high"]} if "low" in metadata else {}
        return {"type": "integer" if hint is int else "number", **bounds}
    return {"type": {str: "string", bool: "boolean", type(None): "null"}[hint]}


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or with --check compares them."""
    check = (sys.argv[1:] if arguments is None else arguments) == ["--check"]
    stale = []
    for name, text in FILES.items():
        path, content = DOCS / name, text()
        if not check:
            path.write_text(content, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != content:
            stale.append(str(path))
    if stale:
        print(f"not what `python -m detection.config_reference` would write: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
