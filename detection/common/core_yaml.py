"""YAML text ↔ plain values, by the 1.2 core schema: `1e-3` is a number, `no` a word and `010` ten.

PyYAML's own rules differ. Repeated keys, aliases and tags are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from backbones.common.errors import UserError


class _Loader(yaml.SafeLoader):
    """The safe loader with the 1.2 core schema, without aliases, tags and repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class declares it so

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            refused = "aliases (*name) are not allowed: write the values out"
        elif getattr(event, "tag", None) is not None:  # SafeLoader's own constructors fail on misused tags
            refused = f"tags ({event.tag}) are not allowed: write the value alone"
        else:
            return super().compose_node(parent, index)
        raise yaml.composer.ComposerError(None, None, refused, event.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda _, node: float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))
)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that is not a text in our schema or in YAML 1.1, which other programs use."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - the base class declares it so
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
        for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
    }


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text states; `where` names it in errors.

    Raises:
        UserError: it is not YAML, or has a repeated key, an alias or a tag; the message gives line and column.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line that are not UTF-8, such as an old folder's name
        raise UserError(
            f"{where}: has bytes that are no UTF-8; rename it, or reach it by a link of another name"
        ) from None
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: plain values only
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable as YAML: {error}") from None


def dump_yaml(values: Any) -> str:
    """Plain values as a text that `parse_yaml` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
