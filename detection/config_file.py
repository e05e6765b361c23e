"""YAML files and `key.sub=value` texts ↔ a typed configuration; all errors are reported at once.

The configuration is a frozen dataclass of dataclasses: the detectors' (`detection.config.Config`), or another `kind`.

YAML is read by the rules of `detection/common/core_yaml.py`.
A file may name another one in `base:`, relative to itself or a preset in configs/, and change its values.
A key that was renamed (`RENAMED`) is still accepted under its earlier name; a notice gives the new one.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, user_path, write_text
from backbones.common.names import did_you_mean
from detection.common.core_yaml import dump_yaml, parse_yaml
from detection.common.label_kinds import start_of, what_labels_are
from detection.common.shortened import short
from detection.config import Config
from detection.config_values import check_range, convert
from detection.presets import find_config

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Full keys ("rpn.training.steps") of earlier versions → those of this version.
RENAMED: dict[str, str] = {}
SIZE_LIMIT = 1 << 18  # bytes of a file: fifty times the longest one here; parsed in at most three seconds
_MARK = "# Written by a training; the next one into this folder replaces it. SHA-256 of the lines below: "
_KEYS = {"seed", "name", "output", "data", "runtime"}  # every configuration has them
# What `what_labels_are` says of files that are given in place of a configuration
_LABELS = ("the data.yaml of a YOLO", "a COCO file", "a Pascal VOC file", "a CVAT file", "a LabelMe file")
TOLD = 20  # mistakes that are listed; the others are counted


class Configuration(Protocol):
    """A frozen dataclass whose fields all have defaults; `within` gives a field its range."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def contradictions(self) -> list[str]:
        """Contradictory settings among valid values, each in words with the full keys."""
        ...


C = TypeVar("C", bound=Configuration)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """`load_config_of` for the detectors' configuration."""
    return load_config_of(Config, path, overrides)


def config_from_dict(values: Mapping[str, Any], where: str) -> Config:
    """`config_of` for the detectors' configuration."""
    return config_of(Config, values, where)


def load_config_of(kind: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Reads a file, applies `key.sub=value` overrides in order, and checks the whole.

    Raises:
        UserError: lists all mistakes (at most the first `TOLD`), each with its key; for an unknown key it names the
            nearest known one.
    """
    values = _read_with_base(find_config(user_path(path)), ()) if path is not None else {}
    return _changed(kind, values, overrides, str(path) if path is not None else "configuration")


def change_config(config: C, overrides: Sequence[str]) -> C:
    """`config` with one or several `key.sub=value` overrides; raises the errors of `load_config_of`."""
    return _changed(type(config), config_to_dict(config), overrides, "command line") if overrides else config


def quoted(text: str) -> str:
    """A text as a quoted YAML string, for a change such as `output='my folder'`."""
    return "'" + text.replace("'", "''") + "'"


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
        parsed = parse_yaml(value, f"{key.strip()}={value}")
        _set(values, _rename_key(key.strip(), "command line").split("."), parsed)
    return _checked(kind, values, where, mistakes)


def rename_keys(values: Any, where: str | None = None) -> Any:
    """A configuration's plain values, with renamed keys under their new names; anything else is unchanged.

    where: the name of the source in notices; None: no notice.

    Raises:
        UserError: a value is given under both names.
    """
    for earlier, today in RENAMED.items():
        if not _has(values, earlier.split(".")):
            continue
        values = copy.deepcopy(values)
        value = _pop(values, earlier.split("."))
        if _has(values, today.split(".")):
            raise UserError(f"{where or 'configuration'}: {earlier} is called {today} now, and both are given")
        if where is not None:
            _rename_key(earlier, where)
        _set(values, today.split("."), value)
    return values


def _rename_key(key: str, where: str) -> str:
    """The current name of a key; if it was renamed, a notice is logged."""
    today = RENAMED.get(key, key)
    if today != key:
        logger.warning("%s: %s is called %s now; the earlier name is still taken", where, key, today)
    return today


def _pop(values: dict[str, Any], keys: Sequence[str]) -> Any:
    for key in keys[:-1]:
        values = values[key]
    return values.pop(keys[-1])


def _has(values: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def _checked(kind: type[C], values: Mapping[str, Any], where: str, mistakes: list[str]) -> C:
    config = _build(kind, rename_keys(values), "", mistakes)
    # A wrong value is replaced by its default: contradictions in its section are then not reported.
    doubtful = {mistake.partition(":")[0].rpartition(".")[0] for mistake in mistakes[:TOLD]}
    mistakes += [text for text in config.contradictions() if not any(_is_about(text, part) for part in doubtful)]
    if mistakes:
        told = mistakes[:TOLD] + ([f"… and {len(mistakes) - TOLD} more"] if len(mistakes) > TOLD else [])
        raise UserError(f"{where}: " + ("\n  " if len(mistakes) > 1 else "") + "\n  ".join(told))
    return config


def _is_about(contradiction: str, section: str) -> bool:
    """Whether a contradiction names a key of the section ("rpn.training"; "" is the whole configuration)."""
    keys = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", contradiction)
    return not section or any(key.startswith(f"{section}.") for key in keys)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration → plain dicts, lists and values for YAML, JSON and torch files; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(config))


def config_to_yaml(config: Configuration) -> str:
    """The whole configuration as YAML, which `load_config_of` reads."""
    return dump_yaml(config_to_dict(config))


def write_config(config: Configuration, path: Path) -> None:
    """Writes the whole configuration with all defaults as a YAML file, with which the run can be repeated."""
    text = config_to_yaml(config)
    write_text(path, f"{_mark_of(text)}\n{text}")


def is_written_config(path: Path) -> bool:
    """Whether `write_config` wrote the file at `path` and nobody changed it since.

    Earlier versions wrote no mark. Their files are known by all of their text being as it would be written.
    """
    try:
        text = _text_of(path)
        mark, _, rest = text.partition("\n")
        if mark.startswith(_MARK):
            return mark == _mark_of(rest)
        values = parse_yaml(text, str(path))
        return isinstance(values, dict) and values.keys() > _KEYS and dump_yaml(values) == text
    except UserError:
        return False


def _mark_of(text: str) -> str:
    return _MARK + hashlib.sha256(text.encode()).hexdigest()


def _read_with_base(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in chain:
        raise UserError(f"{path}: `base:` leads back to itself")
    values = parse_yaml(_text_of(path), str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, this is a {type(values).__name__}")
    values = rename_keys(values, str(path))
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: `base` names another configuration file, got {base!r}")
    return _merge(_read_with_base(find_config(Path(base), path.parent), (*chain, path.resolve())), values)


def _text_of(path: Path) -> str:
    """The text of a configuration file."""
    try:
        status = require_plain_file(path)
        kind = what_labels_are(start_of(path))
        if kind.startswith(_LABELS):
            raise UserError(f"{path}: is no configuration, but {kind}")
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
    """An instance of the dataclass `kind`; keys that are missing in `values` come from `default`, or from the defaults
    of the class."""
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
    return did_you_mean(key, known := list(known)) or f"; known here: {', '.join(known)}"
