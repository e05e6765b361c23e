"""The configuration: every file loads, every mistake is named, YAML means what it says."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backbones.common.errors import UserError
from detection import config_file
from detection.classifier.config import ClassifierConfig
from detection.common.core_yaml import parse_yaml
from detection.config import Config
from detection.config_file import (
    SIZE_LIMIT,
    change_config,
    config_from_dict,
    config_of,
    config_to_dict,
    config_to_yaml,
    is_written_config,
    load_config,
    write_config,
)

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("**/*.yaml"))
CLASSIFIERS = ("imagenet", "cifar", "tiny_imagenet")
NAMED = [path for path in CONFIGS if path.name != "base.yaml" and path.parent.name not in CLASSIFIERS]
VALID = ["data.layout=coco", "backbone.weights=x"]


def test_there_are_configs_for_every_row_of_table_8_in_both_presets() -> None:
    names = {f"{path.parent.name}/{path.stem}" for path in CONFIGS}
    for preset in ("paper", "modern"):
        for backbone in ("resnet50", "resnext50_32x4d", "resnet101", "resnext101_32x4d"):
            assert f"{preset}/{backbone}" in names


@pytest.mark.parametrize("path", NAMED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads_and_reads_back_the_same(path: Path) -> None:
    config = load_config(path)
    assert config.name != "unnamed"
    assert config_from_dict(parse_yaml(config_to_yaml(config), "text"), "text") == config
    assert config_from_dict(config_to_dict(config), "dict") == config


def test_a_written_configuration_is_known_unless_it_was_changed(tmp_path: Path) -> None:
    path, config = tmp_path / "config.yaml", load_config(NAMED[0])
    write_config(config, path)
    assert load_config(path) == config
    assert is_written_config(path)
    text = path.read_text(encoding="utf-8")
    for changed in (text + "# mine\n", text.replace("seed: 0", "seed: 1"), text[:-1], ""):
        path.write_text(changed, encoding="utf-8")
        assert not is_written_config(path)
    path.write_text(config_to_yaml(config), encoding="utf-8")  # as earlier versions wrote it
    assert is_written_config(path)
    for other in ("name: mine\n", config_to_yaml(config) + "# mine\n", "[a", "precious"):
        path.write_text(other, encoding="utf-8")
        assert not is_written_config(path)
    for given in NAMED:
        assert not is_written_config(given)
    assert not is_written_config(tmp_path)


def test_the_papers_schedule_is_appendix_b() -> None:
    config = load_config(Path(CONFIGS[0]).parents[1] / "configs" / "paper" / "resnext101_32x4d.yaml")
    rpn, fast = config.rpn.training, config.fast_rcnn.training
    assert (rpn.global_batch, rpn.learning_rate, rpn.steps, rpn.milestones) == (16, 0.02, 180_000, (120_000,))
    assert (fast.global_batch, fast.learning_rate, fast.steps, fast.milestones) == (8, 0.005, 180_000, (120_000,))
    assert (rpn.weight_decay, fast.weight_decay, rpn.momentum, fast.momentum) == (1e-4, 1e-4, 0.9, 0.9)
    assert (config.rpn.samples, config.fast_rcnn.samples) == (256, 64)
    assert (config.data.shorter_sides, config.data.longer_side) == ((600,), 1000)
    assert config.rpn.test_proposals.after_nms == 300
    assert (config.fast_rcnn.pooling, config.fast_rcnn.pooled_size) == ("max", 14)
    for training in (rpn, fast):  # py-faster-rcnn's prototxts: lr_mult 2 and no decay_mult
        assert (training.bias_lr_factor, training.bias_weight_decay) == (2.0, True)


def test_the_modern_preset_is_detectrons() -> None:
    config = load_config(Path(CONFIGS[0]).parents[1] / "configs" / "modern" / "resnet50.yaml")
    rpn, fast = config.rpn.training, config.fast_rcnn.training
    assert (rpn.global_batch, rpn.learning_rate, rpn.steps, rpn.milestones) == (16, 0.02, 90_000, (60_000, 80_000))
    assert (fast.global_batch, fast.learning_rate, fast.steps, fast.milestones) == (
        8,
        0.01,
        180_000,
        (120_000, 160_000),
    )
    assert (rpn.warmup_steps, rpn.warmup_factor) == (500, pytest.approx(1 / 3))
    assert config.rpn.anchor_sizes == (32, 64, 128, 256, 512)
    assert (config.fast_rcnn.samples, config.fast_rcnn.nms_iou, config.fast_rcnn.pooling) == (512, 0.5, "align")
    for training in (rpn, fast):  # detectron/modeling/optimizer.py: twice the rate, no weight decay
        assert (training.bias_lr_factor, training.bias_weight_decay) == (2.0, False)
    limits = config.rpn.test_proposals  # TEST.RPN_PRE_NMS_TOP_N by its default, and TEST.PROPOSAL_LIMIT
    assert (limits.before_nms, limits.after_nms, limits.nms_iou, limits.min_side) == (12_000, 1000, 0.7, 0)


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_the_presets_are_measured_along_the_way(preset: str) -> None:
    config = load_config(Path(CONFIGS[0]).parents[1] / "configs" / preset / "resnet50.yaml")
    assert (config.rpn.training.evaluate_every, config.fast_rcnn.training.evaluate_every) == (10_000, 10_000)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_value_has_its_source_beside_it(path: Path) -> None:
    """Names and weights of networks, and what stands on a line of its own, the first lines of a file explain."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    values = [line for line in lines if re.match(r" +(?!name:|weights:)\w+: *[^ #]", line)]
    assert [line for line in values if not re.search(r" # \S", line)] == []


def test_command_line_values_are_typed_and_applied_in_order() -> None:
    config = load_config(
        None, [*VALID, "rpn.training.learning_rate=1e-3", "seed=7", "seed=8", "data.shorter_sides=[480, 600]"]
    )
    assert config.rpn.training.learning_rate == 1e-3
    assert config.seed == 8
    assert config.data.shorter_sides == (480, 600)
    assert change_config(config, ["backbone.norm=group"]).backbone.norm == "group"


def test_all_mistakes_are_named_at_once() -> None:
    changes = [
        "dta.root=3",
        "rpn.trainin.steps=5",
        "seed=1.5",
        "rpn.positive_iou=2",
        "backbone.norm=foo",
        "data.shorter_sides=600",
        "data.keep_empty=no",
        "fast_rcnn.box_stds=[1, 2]",
        "rpn.channels=0",
        "fast_rcnn.class_balance=1",
        "fast_rcnn.cascade=[0.6, 1.5]",
        "fast_rcnn.nms=soft",
    ]
    with pytest.raises(UserError) as raised:
        load_config(None, changes)
    message = str(raised.value)
    for part in (
        "dta: unknown key; did you mean 'data'?",
        "rpn.trainin: unknown key; did you mean 'training'?",
        "seed: expected a whole number, got 1.5",
        "rpn.positive_iou: 2.0 is out of range: from 0 to 1",
        "backbone.norm: 'foo' is none of",
        "data.shorter_sides: expected a list",
        "data.keep_empty: expected true or false, got 'no'",
        "fast_rcnn.box_stds: expected 4 values, got 2",
        "rpn.channels: 0 is out of range: from 1 to 65536",
        "fast_rcnn.class_balance: 1.0 is out of range",
        "fast_rcnn.cascade: 1.5 is out of range: from 0 to 1",
        "fast_rcnn.nms: 'soft' is none of 'hard', 'linear', 'gaussian'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["rpn.negative_iou=0.8"], "an anchor cannot be both"),
        (["backbone.weights=null"], "random filters for ever"),
        (["backbone.weights=null", "backbone.freeze=null"], "no statistics to keep"),
        (["data.layout=files"], "needs `annotations` and `images`"),
        (["data.layout=coco", "data.split.test=0.2"], "has splits of its own; leave data.split out"),
        (
            ["data.split.test=0.2", "data.test.annotations=a", "data.test.images=b"],
            "data.test is either a part of data.train's labels or has labels",
        ),
        (["rpn.training.milestones=[5, 3]"], "must ascend"),
        (["rpn.training.steps=9000"], r"milestones \[120000\]: none lies below rpn.training.steps \(9000\)"),
        (["fast_rcnn.training.steps=120000"], "fast_rcnn.training.schedule=cosine"),
        (
            ["rpn.training.schedule=cosine", "rpn.training.steps=4", "rpn.training.warmup_steps=50"],
            r"rpn.training.warmup_steps \(50\) must lie below rpn.training.steps \(4\)",
        ),
        (["fast_rcnn.background_low=0.6"], "no region could be background"),
        (["fast_rcnn.cascade=[0.6]", "fast_rcnn.sampling=ohem"], "learn from one random sample"),
        (["data.test_scales=[400, 600]"], "data.test_scales: 600 is data.test_shorter_side"),
        (["data.shorter_sides=[]"], "data.shorter_sides: at least one value"),
        (["rpn.anchor_ratios=[]"], "rpn.anchor_ratios: at least one value"),
        (["data.albumentations=[{p: 1}]"], "data.albumentations: each transform needs a `name`"),
        (["data.albumentations=[{name: 3}]"], "data.albumentations: each transform needs a `name`"),
        (["runtime.deterministic=true", "runtime.grouped_convolutions=fastest"], "is measured anew in each run"),
    ],
)
def test_contradictions_are_refused(changes: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_config(None, [*VALID, *changes])


@pytest.mark.parametrize("last", ["milestones=[]", "milestones=[8000, 120000]", "schedule=cosine"])
def test_a_rate_that_falls_or_is_meant_not_to_is_no_contradiction(last: str) -> None:
    assert load_config(None, [*VALID, "rpn.training.steps=9000", f"rpn.training.{last}"]).rpn.training.steps == 9000


def test_a_file_without_its_option_is_told_of_the_option() -> None:
    with pytest.raises(UserError, match=r"'configs/bccd\.yaml': write key\.sub=value, or --config before"):
        load_config(None, ["configs/bccd.yaml"])


def test_contradictions_are_named_together() -> None:
    with pytest.raises(UserError) as raised:
        load_config(None, [*VALID, "rpn.negative_iou=0.8", "rpn.anchor_sizes=[]", "fast_rcnn.pooled_size=1"])
    for part in ("an anchor cannot be both", "rpn.anchor_sizes: at least one value", "conv5 halves it"):
        assert part in str(raised.value)


def test_contradictions_are_named_beside_wrong_values_of_other_sections() -> None:
    with pytest.raises(UserError) as raised:
        load_config(
            None,
            [*VALID, "rpn.negative_iou=0.8", "rpn.training.steps=0", "rpn.training.milestones=[5, 3]", "data.roo=x"],
        )
    message = str(raised.value)
    assert "rpn.training.steps: 0 is out of range" in message
    assert "data.roo: unknown key" in message
    assert "an anchor cannot be both" in message
    assert "must ascend" not in message  # the default stands in for the steps


def test_what_a_wrong_value_was_meant_to_be_is_not_called_a_contradiction() -> None:
    with pytest.raises(UserError) as raised:
        load_config(None, ["data.layout=coco", "backbone.weigths=x", "rpn.negative_iou=0.8"])
    assert "backbone.weigths: unknown key; did you mean 'weights'?" in str(raised.value)
    assert "an anchor cannot be both" in str(raised.value)
    assert "without backbone.weights" not in str(raised.value)


def test_bytes_that_are_no_utf8_are_refused_in_words() -> None:
    name = os.fsdecode(b"/data/caf\xe9")
    with pytest.raises(UserError, match=r"^data\.root='/data/caf.*': has bytes that are no UTF-8; rename it"):
        load_config(None, [*VALID, f"data.root='{name}'"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("fast_rcnn.box_means=[.inf, 0, 0, 0]", "inf is not a finite number"),  # a field without limits
        (f"seed={10**30}", "is out of range"),  # beyond what a generator takes
        ("seed=" + "9" * 5000, "not readable as YAML"),
    ],
)
def test_numbers_that_nothing_can_work_with_are_refused(change: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_config(None, [*VALID, change])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("no", "no"),
        ("010", 10),
        ("true", True),
        ("~", None),
        ("1_000", 1000),
        ("'5'", "5"),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
        ("2001-01-01", "2001-01-01"),
    ],
)
def test_yaml_reads_by_the_core_schema(text: str, value: object) -> None:
    result = parse_yaml(text, "text")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\na: 2", "stands here twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("a: !!timestamp yesterday", "tags .* are not allowed"),  # these four crash PyYAML's own constructors
        ("a: !!int [1]", "tags .* are not allowed"),
        ("a: !!bool maybe", "tags .* are not allowed"),
        ("a: !!float {}", "tags .* are not allowed"),
        ("a: !own 1", "tags .* are not allowed"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        ("a: [1", "line 1"),
        ("1: 2", "is not a word"),
        ("[" * 5000, "not readable as YAML"),
        (".nan", None),
    ],
)
def test_dangerous_and_broken_yaml_is_refused(text: str, part: str | None) -> None:
    if part is None:
        assert parse_yaml(text, "text") != parse_yaml(text, "text")  # a NaN; the range check refuses it
        with pytest.raises(UserError, match="not a finite number"):
            load_config(None, [*VALID, f"rpn.training.learning_rate={text}"])
        return
    with pytest.raises(UserError, match=part):
        parse_yaml(text, "text")


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two keys had other names once, one of them in another section."""
    names = {"rpn.training.batch": "rpn.training.global_batch", "test_batch": "runtime.test_batch"}
    monkeypatch.setattr(config_file, "RENAMED", names)


@pytest.mark.usefixtures("renamed")
def test_a_renamed_key_is_taken_by_its_earlier_name_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "base.yaml").write_text("data: {layout: coco}\nbackbone: {weights: x}\nrpn: {training: {batch: 4}}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\ntest_batch: 3\n")
    with caplog.at_level(logging.WARNING):
        config = load_config(tmp_path / "own.yaml")
    assert (config.rpn.training.global_batch, config.runtime.test_batch) == (4, 3)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'own.yaml'}: test_batch is called runtime.test_batch now; the earlier name is still taken",
        f"{tmp_path / 'base.yaml'}: rpn.training.batch is called rpn.training.global_batch now; the earlier name is "
        "still taken",
    ]
    caplog.clear()
    changed = load_config(tmp_path / "own.yaml", ["rpn.training.batch=8", "test_batch=7"])
    assert (changed.rpn.training.global_batch, changed.runtime.test_batch) == (8, 7)
    assert "command line: rpn.training.batch is called rpn.training.global_batch now" in caplog.text
    (tmp_path / "new.yaml").write_text("base: base.yaml\nrpn: {training: {global_batch: 2}}\n")
    assert load_config(tmp_path / "new.yaml").rpn.training.global_batch == 2  # whichever name the base has


@pytest.mark.usefixtures("renamed")
def test_a_stored_configuration_of_an_earlier_version_is_read_silently(caplog: pytest.LogCaptureFixture) -> None:
    values = config_to_dict(load_config(None, VALID))
    values["rpn"]["training"]["batch"] = values["rpn"]["training"].pop("global_batch") + 5
    assert config_from_dict(values, "file").rpn.training.global_batch == Config().rpn.training.global_batch + 5
    assert "global_batch" not in values["rpn"]["training"]
    assert not caplog.records


@pytest.mark.usefixtures("renamed")
def test_a_value_by_both_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("rpn: {training: {batch: 4, global_batch: 4}}\n")
    with pytest.raises(UserError, match=r"rpn.training.batch is called rpn.training.global_batch now, and both"):
        load_config(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "..", "a\\b", "a\nb"])
def test_a_split_is_not_named_like_a_path(name: str) -> None:
    """It is part of files' names, also where the configuration is a stranger's."""
    values = config_to_dict(load_config(None, VALID))
    values["data"]["train"]["name"] = name
    with pytest.raises(UserError, match=r"data.train.name: .* is to be part of files' names"):
        config_from_dict(values, "file")


def test_of_two_splits_the_one_that_is_not_used_may_lack_its_files() -> None:
    files = ["data.layout=files", "data.test.annotations=a.json", "data.test.images=images"]
    assert load_config(None, [*VALID[1:], *files]).data.train.annotations is None


def test_a_base_file_is_changed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("data: {layout: coco, root: here}\nbackbone: {weights: x}\nseed: 3\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\ndata: {root: there}\n")
    config = load_config(tmp_path / "own.yaml")
    assert (config.data.root, config.data.layout, config.seed) == ("there", "coco", 3)


def test_a_base_that_leads_back_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "part"), [("- 1\n", "is a list"), (None, "cannot read"), (b"\xff\xfe", "cannot read")]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: object, part: str) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(UserError, match=part):
        load_config(path)


def fields_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """(key, type, field) of every value of a configuration."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from fields_of(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], field


def is_numeric(hint: Any) -> bool:
    return hint in (int, float) or any(is_numeric(part) for part in typing.get_args(hint))


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast("dict[str, Any]", value)


@pytest.mark.parametrize("kind", [Config, ClassifierConfig])
def test_every_number_has_two_bounds_and_both_are_kept(kind: Any) -> None:
    numeric = [(key, hint, field) for key, hint, field in fields_of(kind) if is_numeric(hint)]
    assert len(numeric) > 30
    for key, hint, field in numeric:
        low, high = field.metadata["low"], field.metadata["high"]
        assert low < high < 2**63
        for number in (low - 1, high + 1, -(10**19), 10**19, 10**400, -(10**5000)):
            value = [number] * str(hint).count("float") if "tuple[float, float" in str(hint) else number
            value = [number] if "..." in str(hint) else value
            with pytest.raises(UserError, match=rf"{key}: .*out of range") as caught:
                config_of(kind, nested(key, value), "x.yaml")
            assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", [Config, ClassifierConfig])
def test_every_text_and_list_has_a_length_at_most(kind: Any) -> None:
    for key, hint, field in fields_of(kind):
        if "str" in str(hint) and "Literal" not in str(hint) and "dict" not in str(hint):
            text = "x" * 1_000_000
            value = nested(key, [text] if "tuple" in str(hint) else text)
            with pytest.raises(UserError, match=rf"{key}: a text of 1000000 characters") as caught:
                config_of(kind, value, "x.yaml")
            assert len(str(caught.value)) < 2000
        if "tuple" in str(hint) and "..." in str(hint):
            count = field.metadata.get("most", 1000) + 1
            with pytest.raises(UserError, match=rf"{key}: {count} values are out of range: at most"):
                config_of(kind, nested(key, [1] * count), "x.yaml")


def shared(depth: int) -> list[Any]:
    """A list of 2 ** depth items, made of one list for each of its levels."""
    value: list[Any] = [1]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("transform", "part"),
    [
        ({"name": "Blur", "limit": shared(60)}, "more than 10000 values, or more than 20 within each other"),
        ({"name": "Blur", "limit": shared(15)}, "more than 10000 values"),
        ({"name": "x" * 5000}, "a text of 5000 characters"),
        ({"name": "Blur", "limit": 1e300}, "out of range"),
        ({"name": "Blur", "limit": float("nan")}, "not a finite number"),
        ({"name": "Blur", "limit": {3, 4}}, "got a set"),
        ({"name": "Blur", 3: 4}, "the key 3 is not a word"),
    ],
)
def test_what_is_free_in_form_is_bounded_too(transform: dict[Any, Any], part: str) -> None:
    with pytest.raises(UserError, match=rf"data\.albumentations: .*{part}"):
        config_from_dict({"data": {"albumentations": [transform]}}, "x.pt")


def test_a_wrong_value_of_any_size_makes_a_short_message() -> None:
    for key in ("rpn", "seed", "data.layout", "data.albumentations", "rpn.anchor_sizes"):
        with pytest.raises(UserError) as caught:
            config_from_dict(nested(key, {"a": shared(60), "b": "x" * 10**6}), "x.pt")
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("where", ["--config", "base"])
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, where: str) -> None:
    """A pipe would wait for ever, and a device has no end."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_text("seed: 3\n" + "#" * SIZE_LIMIT)
    for name, reason in (
        ("pipe", "is a pipe, not a file"),
        ("device", "is a device, not a file"),
        ("folder", "is a directory, not a file"),
        ("large", "cannot read the configuration: .*more than the"),
    ):
        path = tmp_path / f"{name}.yaml"
        if where == "base":
            (tmp_path / "own.yaml").write_text(f"base: {name}.yaml\n")
        with pytest.raises(UserError, match=rf"{name}\.yaml:? {reason}"):
            load_config(tmp_path / "own.yaml" if where == "base" else path)


def test_very_many_unknown_keys_are_told_soon(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("".join(f"unknown_{i}: {i}\n" for i in range(11_000)))
    began = time.process_time()
    with pytest.raises(UserError, match="… and 10980 more") as caught:
        load_config(path)
    assert time.process_time() - began < 10  # each key's nearest name would take a minute
    assert len(str(caught.value)) < 5000


def test_one_change_may_stand_alone() -> None:
    config = load_config(None, VALID)
    assert change_config(config, "seed=9").seed == 9
    with pytest.raises(UserError, match=r"'seed': write key\.sub=value"):
        change_config(config, "seed")
    with pytest.raises(UserError, match=r"a change is a text, key\.sub=value, not 3"):
        change_config(config, [3])  # type: ignore[list-item]


def test_it_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 5  # type: ignore[misc]
