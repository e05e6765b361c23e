"""YAML files and `key.sub=value` texts ↔ a typed configuration, with every mistake named at once.

The configuration is a frozen dataclass of dataclasses: the detectors' (`detection.config.Config`), or another `kind`.

YAML is read by the 1.2 core schema, so that `1e-3` is a number, `no` a word and `010` ten; PyYAML's own rules say
otherwise. Repeated keys, aliases and tags are refused.
A file may name another in `base:`, relative to itself, whose values it changes.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import stat
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import yaml

from backbones.common.errors import UserError
from detection.common.shortened import short
from detection.config import Config
from detection.config_values import check_range, convert

T = TypeVar("T")

SIZE_LIMIT = 1 << 18  # bytes of a file: fifty times the longest one here, and parsed in three seconds at the worst
TOLD = 20  # mistakes that are told; the rest is counted


class Configuration(Protocol):
    """A frozen dataclass whose fields all have defaults; `within` gives a field its range."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def contradictions(self) -> list[str]:
        """What cannot be meant though each value by itself can, in words that name the keys in full."""
        ...


C = TypeVar("C", bound=Configuration)


class _Loader(yaml.SafeLoader):
    """The safe loader with the 1.2 core schema, without aliases, tags and repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class declares it so

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            refused = "aliases (*name) are not allowed: write the values out"
        elif getattr(event, "tag", None) is not None:  # SafeLoader's own constructors stumble over misused tags
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
    """Quotes a text that either schema would take for something else: 1.1 for other programs' sake, and our own."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - the base class declares it so
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
        for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
    }


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text states; `where` names it in errors.

    Raises:
        UserError: it is not YAML, or uses what is refused here; the message gives line and column.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the command line, such as a folder's name of another time
        raise UserError(
            f"{where}: has bytes that are no UTF-8; rename it, or reach it by a link of another name"
        ) from None
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: plain values only
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not readable as YAML: {error}") from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """`load_config_of` for the detectors' configuration."""
    return load_config_of(Config, path, overrides)


def config_from_dict(values: Mapping[str, Any], where: str) -> Config:
    """`config_of` for the detectors' configuration."""
    return config_of(Config, values, where)


def load_config_of(kind: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Reads a file, applies `key.sub=value` overrides in order, and checks the whole.

    Raises:
        UserError: with all mistakes at once (of very many, the first ones), each with its key; an unknown key comes
            with the nearest known one.
    """
    values = _read_with_base(Path(path), ()) if path is not None else {}
    return _changed(kind, values, overrides, str(path) if path is not None else "configuration")


def change_config(config: C, overrides: Sequence[str]) -> C:
    """`config` with `key.sub=value` overrides applied, one alone or several; errors as in `load_config_of`."""
    return _changed(type(config), config_to_dict(config), overrides, "command line") if overrides else config


def config_of(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Builds and checks a configuration; `where` names the source in errors. The reverse is `config_to_dict`."""
    return _checked(kind, values, where, [])


def _changed(kind: type[C], values: dict[str, Any], overrides: Sequence[str], where: str) -> C:
    mistakes: list[str] = []
    for text in [overrides] if isinstance(overrides, str) else overrides:
        if not isinstance(text, str):
            raise UserError(f"{where}: a change is a text, key.sub=value, not {short(text)}")
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            hint = ", or --config before the name of a configuration file" if text.endswith((".yaml", ".yml")) else ""
            mistakes.append(f"{text!r}: write key.sub=value{hint}")
            continue
        _set(values, key.strip().split("."), parse_yaml(value, f"{key.strip()}={value}"))
    return _checked(kind, values, where, mistakes)


def _checked(kind: type[C], values: Mapping[str, Any], where: str, mistakes: list[str]) -> C:
    config = _build(kind, values, "", mistakes)
    # A default stands in for a wrong value: what it seems to contradict, in its section, says nothing.
    doubtful = {mistake.partition(":")[0].rpartition(".")[0] for mistake in mistakes[:TOLD]}
    mistakes += [text for text in config.contradictions() if not any(_is_about(text, part) for part in doubtful)]
    if mistakes:
        told = mistakes[:TOLD] + ([f"… and {len(mistakes) - TOLD} more"] if len(mistakes) > TOLD else [])
        raise UserError(f"{where}: " + ("\n  " if len(mistakes) > 1 else "") + "\n  ".join(told))
    return config


def _is_about(contradiction: str, section: str) -> bool:
    """Whether it names a key of the section ("rpn.training"; "" is the whole)."""
    keys = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", contradiction)
    return not section or any(key.startswith(f"{section}.") for key in keys)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain containers that YAML, JSON and torch files hold; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(config))


def config_to_yaml(config: Configuration) -> str:
    """The whole configuration as YAML that `load_config_of` reads back."""
    return yaml.dump(
        config_to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )


def _read_with_base(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in chain:
        raise UserError(f"{path}: `base:` leads back to itself")
    values = parse_yaml(_text_of(path), str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, this is a {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: `base` names another configuration file, got {base!r}")
    return _merge(_read_with_base(path.parent / base, (*chain, path.resolve())), values)


def _text_of(path: Path) -> str:
    """The text of a configuration file, which is looked at before it is opened: a pipe could wait for ever, and a
    device has no end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: cannot read the configuration: it is no plain file")
        if status.st_size > SIZE_LIMIT:
            raise UserError(
                f"{path}: cannot read the configuration: it has {status.st_size} bytes, more than the {SIZE_LIMIT} "
                "accepted; is it another file?"
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read the configuration: {error}") from None


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value
    return below


def _set(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[keys[-1]] = value


def _build(kind: type[T], values: Any, prefix: str, mistakes: list[str], default: T | None = None) -> T:
    """An instance of the dataclass `kind`; keys that `values` leaves out come from `default` (or the class's own
    defaults)."""
    default = default if default is not None else kind()
    if not isinstance(values, Mapping):
        mistakes.append(f"{prefix.rstrip('.')}: expected keys and values below it, got {short(values)}")
        return default
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    built = {}
    for key, value in values.items():
        if key not in fields:
            # The nearest name takes a millisecond to find, and a file may have any number of keys.
            name = key[:100] if isinstance(key, str) else short(key)
            nearest = _nearest(name, fields) if len(mistakes) < TOLD else ""
            mistakes.append(f"{prefix}{name}: unknown key{nearest}")
        elif dataclasses.is_dataclass(hints[key]):
            built[key] = _build(
                typing.cast(type, hints[key]), value, f"{prefix}{key}.", mistakes, getattr(default, key)
            )
        else:
            try:
                converted = convert(value, hints[key])
                check_range(converted, fields[key].metadata)
                built[key] = converted
            except ValueError as error:
                mistakes.append(f"{prefix}{key}: {error}")
    return dataclasses.replace(default, **built)  # type: ignore[type-var]


def _nearest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
