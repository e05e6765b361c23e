"""Trained networks' files: what a stranger may have put into one, with a right checksum on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones.common.errors import UserError
from detection.config_file import load_config
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.model_files import (
    Categories,
    Trained,
    TrainedDetector,
    load_detector,
    load_fast_rcnn,
    load_rpn,
    load_rpn_or_detector,
    save_detector,
    save_fast_rcnn,
    save_rpn,
)
from tests.detection.altered_files import HUGE, HUGE_IS_REFUSED, Change, altered
from tests.detection.pipeline import MINIATURE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "miniature.yaml").write_text(MINIATURE)
    config = load_config(folder / "miniature.yaml")
    torch.manual_seed(0)
    save_rpn(folder / "rpn.pt", Trained(build_rpn(config), config, Categories((3, 7), ("cat", "dog"))))
    return folder / "rpn.pt"


def test_an_unchanged_file_loads(trained: Path, tmp_path: Path) -> None:
    loaded = load_rpn(altered(trained, tmp_path / "x.pt", lambda content: None))
    assert loaded.categories == Categories((3, 7), ("cat", "dog"))
    assert not loaded.network.training


def test_a_detector_holds_both_networks_each_by_its_own_configuration(tmp_path: Path) -> None:
    """Its RPN may come from elsewhere, with another backbone; and each half is read from the whole."""
    (tmp_path / "miniature.yaml").write_text(MINIATURE)
    config, elsewhere = (load_config(tmp_path / "miniature.yaml", [f"backbone.planes={n}"]) for n in (8, 16))
    categories = Categories((3, 7), ("cat", "dog"))
    rpn = Trained(build_rpn(elsewhere), elsewhere, categories, {"steps": 1})
    fast_rcnn = Trained(build_fast_rcnn(config, 2), config, categories, {"steps": 2})
    save_detector(tmp_path / "detector.pt", TrainedDetector(rpn, fast_rcnn))
    save_fast_rcnn(tmp_path / "fastrcnn.pt", fast_rcnn)
    whole = load_detector(tmp_path / "detector.pt")
    assert (whole.config, whole.categories) == (config, categories)
    assert (whole.rpn.config, whole.rpn.provenance) == (elsewhere, {"steps": 1})
    for part, original in (
        (whole.rpn, rpn),
        (whole.fast_rcnn, fast_rcnn),
        (load_rpn(tmp_path / "detector.pt"), rpn),
        (load_fast_rcnn(tmp_path / "detector.pt"), fast_rcnn),
        (load_fast_rcnn(tmp_path / "fastrcnn.pt"), fast_rcnn),
    ):
        assert part.provenance["steps"] == original.provenance["steps"]
        state = part.network.state_dict()
        assert state.keys() == original.network.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in original.network.state_dict().items())
    assert isinstance(load_rpn_or_detector(tmp_path / "detector.pt"), TrainedDetector)
    for load in (load_rpn, load_rpn_or_detector, load_detector):
        with pytest.raises(UserError, match=r"fastrcnn.pt is a trained Fast R-CNN without its RPN"):
            load(tmp_path / "fastrcnn.pt")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.pop("config"), "an entry is missing or of the wrong kind"),
        (lambda c: c.update(config=[1]), "expected keys and values"),
        (lambda c: c.update(config={1: 2}), "entry is missing or of the wrong kind|unknown key"),
        (lambda c: c["config"].update(sed=1), "did you mean 'seed'"),
        (lambda c: c.update(categories=5), "of the wrong kind"),
        (lambda c: c["categories"].update(names=["cat"]), "have not a name each"),
        (lambda c: c["categories"].update(ids=["3", 7]), "the id of its class 1 is no whole number of 64 bits"),
        (lambda c: c["categories"].update(ids=[3, 2**63]), "the id of its class 2 is no whole number of 64 bits"),
        (lambda c: c["categories"].update(ids=[3, 3]), "the id 3 is that of two of its classes"),
        (lambda c: c["categories"].update(names=["cat", "x" * 10**6]), "the name of its class 2 is no text"),
        (lambda c: c.update(networks=None), "of the wrong kind"),
        (lambda c: c["networks"].clear(), r"its networks are \[\]"),
        (lambda c: c["networks"].update(rpn={"a": 1}), "cannot be built|are no tensors by name"),
        (lambda c: c["networks"]["rpn"].popitem(), r"do not fit .* in 1 place\(s\): .*: absent in the file, \("),
        (lambda c: c["networks"]["rpn"].update(x=torch.zeros(1)), r"x: \(1,\) in the file, absent by its config"),
        (
            lambda c: c["networks"]["rpn"].update({"head.box.bias": torch.zeros(8).half()}),
            r"torch.float16 \(8,\) in the",
        ),
        (lambda c: c.update(provenance=7), "of the wrong kind"),
        (lambda c: c["config"]["backbone"].update(planes=16), r"do not fit the network that its configuration names"),
        (lambda c: c["config"]["backbone"].update(name="vgg"), "unknown network 'vgg'"),
        (lambda c: c.update(input_formats={}), "of the wrong kind"),
        (lambda c: c["input_formats"]["rpn"].update(mean=["x", 1, 2]), "of the wrong kind"),
        (lambda c: c["input_formats"]["rpn"].pop("mean"), "needs exactly the keys"),
    ],
)
def test_strange_contents_are_refused_in_words(trained: Path, tmp_path: Path, change: Change, part: str) -> None:
    path = altered(trained, tmp_path / "x.pt", change)
    with pytest.raises(UserError, match=part) as caught:
        load_rpn(path)
    assert "x.pt" in str(caught.value) or "vgg" in str(caught.value) or "exactly the keys" in str(caught.value)


@pytest.mark.parametrize("numbers", HUGE)
def test_a_configuration_cannot_make_it_take_any_memory(trained: Path, tmp_path: Path, numbers: dict[str, int]) -> None:
    path = altered(trained, tmp_path / "x.pt", lambda content: content["config"]["backbone"].update(numbers))
    with pytest.raises(UserError, match=HUGE_IS_REFUSED):
        load_rpn(path)


def test_a_configuration_cannot_make_it_build_for_ever(trained: Path, tmp_path: Path) -> None:
    path = altered(trained, tmp_path / "x.pt", lambda c: c["config"]["backbone"].update(depths=[1, 1, 10**9, 1]))
    with pytest.raises(UserError, match=r"depths: 1000000000 is out of range"):
        load_rpn(path)
