"""The server's two HTML pages: one for images, and a description of the interface made of its OpenAPI schema.

Each is one document that loads nothing from elsewhere; its policy (CSP) forbids it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse

_FILES = Path(__file__).resolve().parent / "static"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:{}; base-uri 'none'; frame-ancestors 'none'"


def front_page(*, needs_token: bool, body_bytes: int) -> HTMLResponse:
    """The page that takes an image and draws its detections.

    Args:
        needs_token: it asks for the token from the start.
        body_bytes: it does not send a larger file.
    """
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    values = {"needs_token": "yes" if needs_token else "no", "body_bytes": str(body_bytes), "script": script}
    return _page("front.html", values, f" blob:; connect-src 'self'; script-src 'sha256-{digest}'")


def interface_page(schema: Mapping[str, Any]) -> HTMLResponse:
    """The description of an OpenAPI schema: each operation with its body and answers, and the objects in them."""
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    objects = [_object(name, one) for name, one in schema.get("components", {}).get("schemas", {}).items()]
    return _page("interface.html", {"title": escape(schema["info"]["title"]), "content": "".join(operations + objects)})


def _page(name: str, values: Mapping[str, str], more_policy: str = "") -> HTMLResponse:
    text = _file(name).replace("{{style}}", _file("page.css"))
    for key, value in values.items():
        text = text.replace(f"{{{{{key}}}}}", value)
    headers = {
        "Content-Security-Policy": _POLICY.format(more_policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(text, headers=headers)


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    access = "<p>It needs the token: <code>Authorization: Bearer …</code></p>" if operation.get("security") else ""
    bodies = [
        (f"<code>{escape(kind)}</code>", _type(content["schema"]))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        (escape(status), escape(answer["description"]), ", ".join(_types(answer)))
        for status, answer in sorted(operation["responses"].items())
    ]
    return (
        f"<section><h2>{method.upper()} <code>{escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>{access}"
        f"{_table(('body', 'content'), bodies) if bodies else ''}"
        f"{_table(('status', 'meaning', 'content'), answers)}</section>"
    )


def _object(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        (f"<code>{escape(key)}</code>", _type(one), escape(one.get("description", "")))
        for key, one in schema.get("properties", {}).items()
    ]
    return (
        f'<section id="{escape(name)}"><h2>{escape(name)}</h2><p>{escape(schema.get("description", ""))}</p>'
        f"{_table(('key', 'type', 'meaning'), rows)}</section>"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells of its rows are HTML."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _types(answer: Mapping[str, Any]) -> Iterator[str]:
    for kind, content in answer.get("content", {}).items():
        yield _type(content["schema"]) if content.get("schema") else escape(kind)


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words, as HTML.

    >>> _type({"type": "array", "items": {"type": "array", "items": {"type": "number"}}})
    'list of list of number'
    """
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "properties" in schema:
        return ", ".join(f"<code>{escape(key)}</code>: {_type(one)}" for key, one in schema["properties"].items())
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return "file" if schema.get("format") == "binary" else escape(schema.get("type", "any"))
