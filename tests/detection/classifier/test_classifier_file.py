"""classifier.pt: what a stranger may have put into one, with a right checksum on it. As test_model_files.py does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones.common.errors import UserError
from detection.classifier.classifier_file import TrainedClassifier, load_classifier, save_classifier
from detection.classifier.config import ClassifierConfig
from detection.classifier.network import build_classifier
from detection.config_file import config_of
from detection.training.artifacts import load_artifact
from tests.detection.altered_files import HUGE, HUGE_IS_REFUSED, Change, altered

STRUCTURE = {"depths": [1, 1, 1, 1], "cardinality": 2, "base_width": 16, "planes": 8, "stem_width": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_of(ClassifierConfig, {"network": STRUCTURE}, "test")
    path = tmp_path_factory.mktemp("trained") / "classifier.pt"
    save_classifier(path, TrainedClassifier(config, ("cat", "dog"), build_classifier(config.network, 2), {"steps": 3}))
    return path


def test_an_unchanged_file_loads(trained: Path, tmp_path: Path) -> None:
    loaded = load_classifier(altered(trained, tmp_path / "x.pt", lambda content: None))
    assert loaded.classes == ("cat", "dog")
    assert loaded.provenance["steps"] == 3
    assert not loaded.network.training
    stored = load_artifact(trained, "classifier")["network"]
    assert all(torch.equal(value, stored[name]) for name, value in loaded.network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.pop("config"), "an entry is missing or of the wrong kind"),
        (lambda c: c.update(config=[1]), "expected keys and values"),
        (lambda c: c["config"].update(sed=1), "did you mean 'seed'"),
        (lambda c: c.update(classes=5), "of the wrong kind"),
        (lambda c: c.update(network=None), "cannot be built|are no tensors by name"),
        (lambda c: c.update(network={"a": 1}), "cannot be built|are no tensors by name"),
        (lambda c: c.update(classes=["cat"]), r"fc.bias: \(2,\) in the file, \(1,\) by its configuration"),
        (lambda c: c["network"].popitem(), r"do not fit .* in 1 place\(s\): .*: absent in the file, \("),
        (lambda c: c["network"].update(x=torch.zeros(1)), r"x: \(1,\) in the file, absent by its config"),
        (lambda c: c["network"].update({"fc.bias": torch.zeros(2).half()}), r"torch.float16 \(2,\) in the file"),
        (lambda c: c["config"]["network"].update(planes=16), r"do not fit the network that its configuration names"),
        (lambda c: c["config"]["network"].update(name="vgg"), "unknown network 'vgg'"),
        (lambda c: c.update(input_format=3), "of the wrong kind|needs exactly the keys"),
        (lambda c: c["input_format"].pop("mean"), "needs exactly the keys"),
        (lambda c: c.update(provenance=7), "of the wrong kind"),
    ],
)
def test_strange_contents_are_refused_in_words(trained: Path, tmp_path: Path, change: Change, part: str) -> None:
    path = altered(trained, tmp_path / "x.pt", change)
    with pytest.raises(UserError, match=part):
        load_classifier(path)


@pytest.mark.parametrize("numbers", HUGE)
def test_a_configuration_cannot_make_it_take_any_memory(trained: Path, tmp_path: Path, numbers: dict[str, int]) -> None:
    path = altered(trained, tmp_path / "x.pt", lambda content: content["config"]["network"].update(numbers))
    with pytest.raises(UserError, match=HUGE_IS_REFUSED):
        load_classifier(path)


def test_a_configuration_cannot_make_it_build_for_ever(trained: Path, tmp_path: Path) -> None:
    path = altered(trained, tmp_path / "x.pt", lambda c: c["config"]["network"].update(depths=[1, 1, 10**9, 1]))
    with pytest.raises(UserError, match=r"depths: 1000000000 is out of range"):
        load_classifier(path)
