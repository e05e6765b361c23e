"""A template of `templates/` and its values → a self-contained HTML page: style and script are inside."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from backbones.common.text import printable

_TEMPLATES = Path(__file__).resolve().parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page. Texts among the values are escaped, and control characters in them are made visible.

    The page can load nothing and runs no script but its own, even if a class's name contains HTML.
    """
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_visible
    )
    environment.filters["breakable"] = _breakable
    page = environment.get_template(template).render(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        **values,
    )
    return page + "\n"


def _breakable(text: str) -> Markup:
    """The text, with places within long names, after a dot, a slash or an underscore, at which a line may break.

    >>> _breakable("rpn.training_proposals & 0.5")
    Markup('rpn.<wbr>training_<wbr>proposals &amp; 0.5')
    """
    return Markup(re.sub(r"\S{13,}", _with_breaks, str(escape(printable(text)))))


def _with_breaks(name: re.Match[str]) -> str:
    return re.sub(r"(?<=[./_])(?=[^\W\d_])", "<wbr>", name[0])


def _visible(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
