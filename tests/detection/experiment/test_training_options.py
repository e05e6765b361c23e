"""Options of the training together, through the tools: they change it, and an interrupted run ends in the same bits."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.experiment.evaluation_interval import automatic_interval, best_figure, recall_figure
from detection.experiment.model_files import load_fast_rcnn, load_rpn
from detection.training import loop as loop_module
from tests.detection.pipeline import arguments_for, assert_same_weights, tool

OPTIONS = [
    "data.repeat_threshold=0.9",
    "data.keep_empty=true",
    "data.scale_jitter=[0.5, 1.5]",
    "data.scale_jitter_side=96",
    *(
        f"{network}.training.{change}"
        for network in ("rpn", "fast_rcnn")
        for change in ("optimizer=adamw", "layer_decay=0.7", "ema=0.9", "evaluate_every=2", "patience=2")
    ),
    "rpn.training.freeze=['*.layer1.*']",
    "fast_rcnn.training.freeze=['box_head.conv5.0.conv1.*', 'trunk.conv1.*']",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=12, test=2)
    return folder


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_with_all_options_an_interrupted_run_ends_in_the_same_bits(
    stage: str, run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    extra = ["--rpn", run / "rpn.pt"] if stage == "fastrcnn" else []
    said = tool(f"train_{stage}", *arguments_for(config, data, tmp_path / "whole", OPTIONS), *extra).stderr
    assert "averaged with a decay of 0.9" in said
    calls = itertools.count()
    inner = loop_module.set_learning_rate

    def break_off(optimizer: torch.optim.Optimizer, rate: float) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        inner(optimizer, rate)

    arguments = [*arguments_for(config, data, tmp_path / "broken", OPTIONS), *extra]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "set_learning_rate", break_off)
        assert tool(f"train_{stage}", *arguments, check=False).returncode == 130
    assert "continuing after step 2" in tool(f"train_{stage}", *arguments, "--resume").stderr
    assert_same_weights(tmp_path / f"whole/{stage}.pt", tmp_path / f"broken/{stage}.pt")

    load = load_rpn if stage == "rpn" else load_fast_rcnn
    network, plain = (load(folder / f"{stage}.pt").network.state_dict() for folder in (tmp_path / "whole", run))
    frozen = {"rpn": ("backbone.layer1.",), "fastrcnn": ("box_head.conv5.0.conv1.", "trunk.conv1.")}[stage]
    # The run of the fixture trained these; here they are the initial ones, as those of a run of no rate.
    still = [f"{s}.training.learning_rate=1e-30" for s in ("rpn", "fast_rcnn")]
    tool(f"train_{stage}", *arguments_for(config, data, tmp_path / "still", still), *extra)
    initial = load(tmp_path / f"still/{stage}.pt").network.state_dict()
    for name, value in network.items():
        if name.startswith(frozen):
            torch.testing.assert_close(value, initial[name], rtol=0, atol=1e-12)
    assert any(not torch.equal(value, plain[name]) for name, value in network.items())
    assert any(not torch.allclose(value, initial[name], atol=1e-5) for name, value in network.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["rpn.training.optimizer=adamw", "rpn.training.nesterov=true"], "rpn.training.nesterov belongs to sgd"),
        (["data.scale_jitter=[2.0, 0.1]"], "data.scale_jitter: the range [2.0, 0.1] must ascend"),
        (["data.scale_jitter=[0.0, 2.0]"], "data.scale_jitter: 0.0 is out of range"),
        (["data.repeat_threshold=0"], "data.repeat_threshold: 0.0 is out of range"),
        (["rpn.training.ema=1.0"], "rpn.training.ema: 1.0 is out of range"),
        (["rpn.training.layer_decay=0"], "rpn.training.layer_decay: 0.0 is out of range"),
        (["rpn.training.evaluate_every=null", "rpn.training.patience=2"], "rpn.training.patience counts evaluations"),
        (["rpn.training.keep_best=null", "rpn.training.patience=2"], "rpn.training.patience counts evaluations"),
        (
            ["rpn.training.evaluate_every=null", "rpn.training.keep_best=AR_100"],
            "rpn.training.keep_best: AR_100 without",
        ),
        (
            ["rpn.training.evaluate_every=often"],
            "rpn.training.evaluate_every: expected a whole number, got 'often'; or",
        ),
        (["rpn.training.evaluate_every=0"], "rpn.training.evaluate_every: 0 is out of range"),
        (["rpn.training.freeze=['nothing.*']"], "training.freeze: no parameter of the network matches 'nothing.*'"),
        (
            ["rpn.training.keep_best=AP", "rpn.training.evaluate_every=1"],
            'no figure "AP" to keep the best by: it has AR_',
        ),
    ],
)
def test_values_that_cannot_be_are_refused_by_their_keys(
    change: list[str], told: str, config: Path, data: Path, tmp_path: Path
) -> None:
    result = tool("train_rpn", *arguments_for(config, data, tmp_path, change), check=False)
    assert result.returncode == 1
    assert told in result.stderr


def test_background_images_are_told_of(config: Path, data: Path, tmp_path: Path) -> None:
    whole = tool("train_rpn", *arguments_for(config, data, tmp_path, ["data.keep_empty=true"]), "--dry-run").stderr
    left = tool("train_rpn", *arguments_for(config, data, tmp_path), "--dry-run").stderr
    assert ("have no object and are trained on as background" in whole) == ("have no object and are left out" in left)
    assert "are left out" not in whole


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "configs").glob("p*/*.yaml")))
def test_the_paper_s_recipe_and_the_presets_have_none_of_it(path: Path) -> None:
    config = load_config(path, ["backbone.weights=torchvision/IMAGENET1K_V1"])  # which a base leaves to its files
    assert (config.init_from, config.data.repeat_threshold, config.data.scale_jitter) == (None, None, None)
    for training in (config.rpn.training, config.fast_rcnn.training):
        assert (training.ema, training.keep_best, training.patience, training.optimizer) == (None, None, None, "sgd")
        assert (training.layer_decay, training.freeze) == (1.0, ())


def test_evaluations_are_rare_enough_to_cost_a_twentieth_of_the_images(config: Path) -> None:
    training = load_config(config).rpn.training  # 6 steps of 4 images
    assert automatic_interval(training, 2) == 6
    long = load_config(config, ["rpn.training.steps=9000"]).rpn.training
    for images in (1, 40, 1000, 10**6):
        every = automatic_interval(long, images)
        evaluations = -(-9000 // every)
        assert evaluations == 1 or evaluations * images <= 0.05 * 9000 * 4
        assert evaluations <= 50
    assert automatic_interval(long, 40) == 200


def test_the_figure_of_the_best(config: Path) -> None:
    loaded = load_config(config, ["rpn.training.evaluate_every=2"])
    assert recall_figure(loaded.rpn.test_proposals) == "AR_100"  # of 20 proposals
    assert recall_figure(load_config(config, ["rpn.test_proposals.after_nms=1000"]).rpn.test_proposals) == "AR_1000"
    assert recall_figure(load_config(config, ["rpn.test_proposals.after_nms=5000"]).rpn.test_proposals) == "AR_2000"
    assert best_figure(loaded.rpn.training, "AR_100") == "AR_100"
    named = load_config(config, ["rpn.training.evaluate_every=2", "rpn.training.keep_best=recall50_300"])
    assert best_figure(named.rpn.training, "AR_100") == "recall50_300"
