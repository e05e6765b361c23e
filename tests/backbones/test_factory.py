"""Building with weights, freezing, and refusing what does not fit."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import IMAGENET, InputFormat, create_backbone, create_c4, create_classifier
from backbones.common.errors import UserError
from backbones.normalization import FrozenBatchNorm2d
from backbones.weights.loading import adapt_stem, load_backbone_state

SMALL = "resnext14_8x16d_small"
BGR = InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


@dataclasses.dataclass
class FakeWeights:
    """What `resolve_weights` promises."""

    state_dict: dict[str, Tensor]
    input_format: InputFormat = IMAGENET
    provenance: dict[str, Any] = dataclasses.field(default_factory=lambda: {"source": "fake", "sha256": "00"})
    frozen_norm_only: bool = False


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `weights="fake"` resolve to the given weights; returns the list of (source, name) that were asked for."""

    def install(weights: FakeWeights) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        def resolve_weights(source: str, variant_name: str) -> FakeWeights:
            asked.append((source, variant_name))
            return weights

        module = types.ModuleType("backbones.weights.pretrained")
        module.resolve_weights = resolve_weights
        monkeypatch.setitem(sys.modules, "backbones.weights.pretrained", module)
        return asked

    return install


def _state(**structure: Any) -> dict[str, Tensor]:
    """A whole network's state with every number random and positive variances."""
    torch.manual_seed(1)
    state = create_classifier(SMALL, 10, **structure).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) * 0.2 + (0.5 if name.endswith("running_var") else 0.0))
    return state


def test_backbone_takes_its_part_of_a_whole_networks_weights(serve: Any) -> None:
    state = _state()
    asked = serve(FakeWeights(state, BGR))
    backbone = create_backbone(SMALL, "fake", ("c2", "c3"))
    assert asked == [("fake", SMALL)]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert backbone.input_format == BGR
    provenance = json.loads(json.dumps(backbone.provenance))
    assert provenance["name"] == SMALL
    assert provenance["weights"] == {"source": "fake", "sha256": "00"}
    # what it says about itself builds it again
    assert create_backbone(provenance["name"], **provenance["structure"]).variant == backbone.variant


def test_weights_from_a_file(tmp_path: Path) -> None:
    """Through the real readers: a plain state dict, as torchvision saves them."""
    state = _state()
    torch.save(state, tmp_path / "weights.pth")
    trunk, conv5 = create_c4(SMALL, str(tmp_path / "weights.pth"), norm="frozen")
    assert torch.equal(trunk.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert torch.equal(conv5.state_dict()["0.conv3.weight"], state["layer4.0.conv3.weight"])
    assert len(trunk.provenance["weights"]["sha256"]) == 64
    by_path = create_backbone(SMALL, tmp_path / "weights.pth")
    assert torch.equal(by_path.conv1.weight, state["conv1.weight"])
    assert json.loads(json.dumps(by_path.provenance))["weights"]["source"] == str(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="do not fit the network resnext50_32x4d"):
        create_backbone("resnext50_32x4d", str(tmp_path / "weights.pth"), outputs=("c2",))


def test_classifier_takes_all_of_it_and_c4_its_two_parts(serve: Any) -> None:
    state = _state()
    serve(FakeWeights(state))
    classifier = create_classifier(SMALL, 10, "fake")
    assert all(torch.equal(tensor, state[name]) for name, tensor in classifier.state_dict().items())
    trunk, conv5 = create_c4(SMALL, "fake", norm="frozen")
    assert torch.equal(trunk.state_dict()["layer3.0.conv2.weight"], state["layer3.0.conv2.weight"])
    assert torch.equal(conv5.state_dict()["0.bn3.running_var"], state["layer4.0.bn3.running_var"])


def test_c4_needs_four_stages() -> None:
    with pytest.raises(UserError, match="resnext29 has the stages c2, c3, c4; a C4 detector needs c2 to c5"):
        create_c4("resnext29")


@pytest.mark.parametrize(
    ("name", "structure", "reason"),
    [
        ("resnext50_99999999x4d", {}, "cardinality is 99999999; it must be a whole number from 1 to 4096"),
        ("resnext50_32x99999d", {}, "base_width is 99999; it must be a whole number from 1 to 4096"),
        (f"resnext50_{'9' * 5000}x4d", {}, "unknown network"),
        ("resnext50", {"planes": 10**19}, "planes is 10000000000000000000; it must be"),
        ("resnext50", {"in_channels": 10**6}, "in_channels is 1000000; it must be"),
        (
            "resnext50",
            {"depths": (1, 1, 10**6, 1)},
            r"depths\[2\] is 1000000; it must be a whole number from 1 to 1000",
        ),
        ("resnext50_4096x4096d", {}, "make 3×3 convolutions of 134217728 channels, more than 1048576"),
    ],
)
def test_numbers_that_no_network_has_are_refused_before_it_is_built(
    name: str, structure: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        create_backbone(name, **structure)


def test_families_ask_for_weights_by_the_tables_name(serve: Any) -> None:
    asked = serve(FakeWeights({}))
    for arguments in ({"name": "resnext50"}, {"name": "resnet50", "cardinality": 32, "base_width": 4}):
        with pytest.raises(UserError):
            create_backbone(weights="fake", outputs=("c2",), **arguments)
    assert asked == [("fake", "resnext50_32x4d")] * 2


def test_another_number_of_classes_drops_the_classifier_and_says_so(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    state = _state()
    serve(FakeWeights(state))
    with caplog.at_level(logging.WARNING):
        classifier = create_classifier(SMALL, 3, "fake")
    assert "10 classes, this network into 3" in caplog.text
    assert torch.equal(classifier.conv1.weight, state["conv1.weight"])
    assert classifier.fc.weight.shape == (3, 512)
    assert classifier.fc.weight.min() < 0  # the initial values: those of the source are all positive
    caplog.clear()
    del state["fc.weight"], state["fc.bias"]
    assert load_backbone_state(classifier, state, source="a trunk") == ["fc.weight", "fc.bias"]
    assert "has no classifier" in caplog.text


def test_keys_that_do_not_fit_are_listed_and_nothing_is_changed() -> None:
    state = _state()
    missing = state.pop("layer2.0.conv2.weight")
    state["layer3.0.bn9.weight"] = torch.zeros(4)
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:5]
    backbone = create_backbone(SMALL)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone_state(backbone, state, source="/a/file.pth")
    message = str(caught.value)
    assert "/a/file.pth" in message
    assert SMALL in message
    assert "missing (1): layer2.0.conv2.weight" in message
    assert "unknown (1): layer3.0.bn9.weight" in message
    assert "layer1.0.conv1.weight: (5, 32, 1, 1) instead of (32, 32, 1, 1)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert missing.shape == (64, 8, 3, 3)


def test_unknown_keys_are_unknown_even_where_stages_are_not_built() -> None:
    state = _state()
    state["layer5.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"layer5\.0\.conv1\.weight"):
        load_backbone_state(create_backbone(SMALL, outputs=("c2",)), state, source="x")
    state = _state()
    state["layer4.0.conv9.weight"] = state.pop("layer4.0.conv1.weight")  # of a stage that is not asked for
    load_backbone_state(create_backbone(SMALL, outputs=("c2",)), state, source="x")


def test_counters_may_be_absent_and_a_classifier_without_bias_is_no_classifier() -> None:
    state = {name: tensor for name, tensor in _state().items() if not name.endswith("num_batches_tracked")}
    load_backbone_state(create_backbone(SMALL, norm="frozen"), state, source="x")
    load_backbone_state(create_backbone(SMALL), state, source="x")
    del state["fc.bias"]
    with pytest.raises(UserError, match=r"missing \(1\): fc\.bias"):
        load_backbone_state(create_classifier(SMALL, 10), state, source="x")


def test_batch_norm_weights_do_not_load_into_group_norm() -> None:
    with pytest.raises(UserError, match="norm='batch' or norm='frozen'"):
        load_backbone_state(create_backbone(SMALL, norm="group"), _state(), source="x")


def test_fused_norm_refuses_to_train(serve: Any) -> None:
    serve(FakeWeights(_state(), frozen_norm_only=True))
    with pytest.raises(UserError, match="norm='frozen'"):
        create_backbone(SMALL, "fake")
    backbone = create_backbone(SMALL, "fake", norm="frozen")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize("freeze", [None, "stem", "c2", "c4", "c5"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_freezing_up_to_a_stage(freeze: str | None, norm: str) -> None:
    backbone = create_backbone(SMALL, norm=norm, freeze=freeze)
    parts = ["stem", "c2", "c3", "c4", "c5"]
    frozen = parts[: parts.index(freeze) + 1] if freeze else []
    names = {"conv1": "stem", "bn1": "stem", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (names[name.split(".")[0]] not in frozen), name
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    out = backbone.train()(torch.randn(2, 3, 32, 32))
    assert out["c5"].requires_grad == (freeze != "c5")
    for name, tensor in backbone.state_dict().items():
        if names[name.split(".")[0]] in frozen:
            assert torch.equal(tensor, before[name]), f"{name} moved in a frozen part"
        elif name.endswith("running_mean"):
            assert not torch.equal(tensor, before[name]), f"{name} should follow the batch"
    for part, module in backbone.named_children():
        kinds = {type(m) for m in module.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))}
        if norm == "batch" and not part.startswith("conv"):
            assert kinds == {FrozenBatchNorm2d if names[part] in frozen else nn.BatchNorm2d}


def test_freezing_comes_after_loading(serve: Any) -> None:
    state = _state()
    serve(FakeWeights(state))
    backbone = create_backbone(SMALL, "fake", freeze="c3")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    trunk, conv5 = create_c4(SMALL, "fake", freeze="c5")
    assert not any(parameter.requires_grad for part in (trunk, conv5) for parameter in part.parameters())


def test_freezing_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="stem, c2, c3"):
        create_backbone(SMALL, outputs=("c3",), freeze="c4")


def test_frozen_norm_does_not_move_in_training_mode() -> None:
    backbone = create_backbone(SMALL, norm="frozen")
    x = torch.randn(2, 3, 32, 32)
    backbone.train()
    first = backbone(x)["c5"]
    assert torch.equal(backbone.eval()(x)["c5"], first)
    assert {name for name, _ in backbone.named_parameters()} == {
        name for name in backbone.state_dict() if "conv" in name or name.endswith("downsample.0.weight")
    }


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_stem_adapted_to_other_channels(serve: Any, channels: int) -> None:
    """With one channel, or a multiple of three, equal channels give what the network of three gives on grey."""
    state = _state()
    serve(FakeWeights(state))
    adapted = create_backbone(SMALL, "fake", ("c2",), in_channels=channels).eval()
    whole = create_backbone(SMALL, "fake", ("c2",)).eval()
    grey = torch.randn(1, 1, 40, 40)
    if channels % 3 == 0 or channels == 1:
        got, expected = adapted(grey.expand(-1, channels, -1, -1)), whole(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(got["c2"], expected["c2"])
    for channel in range(channels if channels > 1 else 0):
        torch.testing.assert_close(
            adapted.conv1.weight[:, channel], state["conv1.weight"][:, channel % 3] * 3 / channels
        )
    assert len(adapted.input_format.mean) == channels


def test_adapted_bgr_stem_takes_rgb_order(serve: Any) -> None:
    """Channel 0 of the adapted network is red, whatever order the source was trained in."""
    state = _state()
    serve(FakeWeights(state, BGR))
    adapted = create_backbone(SMALL, "fake", ("c2",), in_channels=4)
    assert torch.equal(adapted.conv1.weight[:, 0], state["conv1.weight"][:, 2] * 0.75)
    assert adapted.input_format.channel_order == "rgb"
    assert adapted.input_format.mean == (123.675, 116.28, 103.53, 123.675)
    assert torch.equal(adapt_stem(state["conv1.weight"], 3), state["conv1.weight"])


def test_weights_made_for_other_channels_load_as_they_stand_or_are_refused(serve: Any) -> None:
    state = _state(in_channels=2)
    serve(FakeWeights(state, IMAGENET.for_channels(2)))
    assert torch.equal(create_backbone(SMALL, "fake", in_channels=2).conv1.weight, state["conv1.weight"])
    with pytest.raises(UserError, match=r"conv1\.weight: \(32, 2, 7, 7\) instead of \(32, 3, 7, 7\)"):
        create_backbone(SMALL, "fake")


def test_without_weights_the_readers_are_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backbones.weights.pretrained", None)  # importing it would fail
    assert create_classifier("resnext50", 3, cardinality=2, base_width=4, depths=(1, 1, 1, 1)).num_classes == 3


def test_five_thousand_classes_by_numbers() -> None:
    with torch.device("meta"):
        classifier = create_classifier("resnext50", cardinality=16, base_width=8, num_classes=5000)
    assert classifier.fc.weight.shape == (5000, 2048)
    assert classifier.layer1[0].conv2.groups == 16
    assert classifier.layer1[0].conv2.out_channels == 128
