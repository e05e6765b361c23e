"""The README and the pages of docs/: every command, key, link and page.

Every command is parsed by its own tool. Those that are quick run on small data here; the others, which train, run in
the slow suite.
"""

from __future__ import annotations

import glob
import importlib.util
import itertools
import re
import shutil
from pathlib import Path

import pytest

from detection.classifier.config import ClassifierConfig
from detection.config import Config
from detection.config_file import change_config, load_config, load_config_of
from detection.config_reference import keys_of
from detection.data.demo import make_demo_dataset
from detection.presets import preset_names, preset_path
from tests.detection.pipeline import MINIATURE, TINY, save_untrained_networks, tool
from tests.detection.videos import frame, write_video
from tests.documented_commands import PAGES, REPOSITORY, Command, commands, parsed

COMMANDS = commands()
OF_TOOLS = [command for command in COMMANDS if command.module]
OTHERS = [command for command in COMMANDS if not command.module]


@pytest.mark.parametrize("command", OF_TOOLS, ids=lambda command: f"{command.page}: {command.text[:60]}")
def test_a_tool_takes_the_options(command: Command) -> None:
    if not command.arguments or not command.module.startswith(("tools.", "backbones")):  # type: ignore[union-attr]
        assert importlib.util.find_spec(command.module)  # type: ignore[arg-type]
        return
    options = parsed(command)
    kind, preset = (ClassifierConfig, "cifar/small.yaml") if "classifier" in command.text else (Config, "demo.yaml")
    change_config(load_config_of(kind, preset_path(preset)), getattr(options, "overrides", []))
    config = str(getattr(options, "config", None) or "")
    assert not config.startswith("configs/") or config.removeprefix("configs/") in preset_names()


def test_other_programs_find_what_they_are_given() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in OTHERS:
        program, *words = command.words
        match program:
            case "make":
                assert set(words) <= targets, command
            case "pip":
                assert words[0] == "install", command
                files = [word for before, word in itertools.pairwise(words) if before in ("-r", "-c")]
                assert all((REPOSITORY / file).is_file() for file in files), command
                assert {name for word in words for name in re.findall(r"^\.\[(\w+)\]$", word)} <= extras.keys(), command
            case "resnext-detect":
                assert words in (["--help"], ["--version"])
            case _:
                assert command.text in ("source .venv/bin/activate", "python3 -m venv .venv"), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {key.name for kind in (Config, ClassifierConfig) for key in keys_of(kind)}
    for name in re.findall(r"`((?:data|backbone|rpn|fast_rcnn|runtime)\.[a-z_][a-z0-9_.]*)", text):
        is_file = name.endswith((".pt", ".yaml", ".st", ".py"))
        assert is_file or name in known or any(key.startswith(f"{name}.") for key in known), name
    for name in re.findall(r"`((?:detection|backbones|tests|tools|configs|docs|benchmarks)/[\w/.-]+)`", text):
        assert (REPOSITORY / name).exists(), name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        target = (page.parent / link if link else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", target, re.M)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize(
    ("page", "place", "block"),
    [
        (page, place, block)
        for page in PAGES
        for place, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.M | re.S))
    ],
    ids=lambda value: value.name if isinstance(value, Path) else str(value)[:12],
)
def test_configurations_on_the_pages_are_sound(
    page: Path, place: int, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(block, encoding="utf-8")
    config = load_config("mine.yaml", ["data.root=shapes", "data.split={}"])
    assert (config.data.layout, config.data.train.name, config.data.test.name) == ("auto", "train", "test")
    make_demo_dataset(Path("shapes"), train=3, test=2)
    tool("check_dataset", "--config", "mine.yaml", "data.root=shapes", "data.split={}")
    assert "anchor" in Path("runs/mine/dataset.html").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation() -> None:
    """A page that is not needs a line of `nav` in zensical.toml."""
    tomllib = pytest.importorskip("tomllib")
    site = tomllib.loads((REPOSITORY / "zensical.toml").read_text(encoding="utf-8"))["project"]

    def pages(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [page for one in (part.values() if isinstance(part, dict) else part) for page in pages(one)]

    assert sorted(pages(site["nav"])) == sorted(path.name for path in (REPOSITORY / "docs").glob("*.md"))


# What the pages call images and labels, and the runs that other commands made.
TRAINED = ["runs/NAME", "runs/demo", "runs/a", "runs/b", "runs/c", "runs/raccoon_voc"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name, of networks that were never trained."""
    folder = tmp_path_factory.mktemp("documentation")
    make_demo_dataset(folder / "DIR", train=4, test=2)
    (folder / "networks").mkdir()
    save_untrained_networks(folder / "networks", folder / "DIR")
    for run in TRAINED:
        (folder / run).mkdir(parents=True)
        for name in ("rpn.pt", "detector.pt"):
            shutil.copy(folder / "networks" / name, folder / run)
    tool("eval_coco", "--weights", folder / "runs/NAME/detector.pt")
    for run in TRAINED[1:]:
        shutil.copytree(folder / "runs/NAME/evaluation", folder / run / "evaluation")
    shutil.copy(folder / "runs/NAME/detector.pt", folder)
    (folder / "mine.yaml").write_text(MINIATURE.replace("data:\n", f"data:\n  root: {folder / 'DIR'}\n"))
    image = next((folder / "DIR" / "test").iterdir())
    named = {word for command in COMMANDS for word in command.words if re.fullmatch(r"\w+\.(jpg|png)", word)}
    for name in ("images/one.jpg", "raccoon_voc/images/one.jpg", "data/demo/test/one.jpg", *named):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    write_video(folder / "clip.mp4", [frame([(10, 10, 40, 40, 1)])] * 3)
    shutil.copytree(folder / "DIR", folder / "raccoon_voc", dirs_exist_ok=True)
    shutil.copy(folder / "runs/NAME/evaluation/results.json", folder)
    shutil.copy(folder / "DIR/annotations/instances_test.json", folder / "annotations.json")
    return folder


NEED_DOWNLOADS = ("/path/to/", "runs/paper_", "runs/pyramid_", "runs/imagenet_")  # parsed above
ENDLESS = "tools.serve"  # parsed above; its own tests run it


def _runs(command: Command) -> bool:
    module = command.module or ""
    return module.startswith("tools.") and module != ENDLESS and bool(command.arguments) and not any(
        word in command.text for word in NEED_DOWNLOADS
    )  # fmt: skip


def _run(command: Command) -> str:
    """Runs it in the current folder, in which the files named by placeholders are there; its output on stdout."""
    own = {"FILE": "mine.yaml", "data.test.annotations=FILE": "data.test.annotations=annotations.json",
           "data.test.images=IMAGES": "data.test.images=DIR/test"}  # fmt: skip
    words = [own.get(word, word) for word in command.arguments]
    arguments = [found for word in words for found in sorted(glob.glob(word)) or [word]]
    name = command.module.removeprefix("tools.")  # type: ignore[union-attr]
    arguments = [re.sub(r"(steps)=\d+", r"\1=6", word) for word in arguments]
    if name in ("train", "new_config"):
        if "--minutes" in arguments:  # as few steps as below instead
            del arguments[arguments.index("--minutes") : arguments.index("--minutes") + 2]
        if "--config" not in arguments:
            arguments += [*TINY, "--device", "cpu"]
        shutil.rmtree("runs", ignore_errors=True)
        if name == "new_config":  # which overwrites nothing
            Path("mine.yaml").unlink()
    elif name == "check_dataset":
        shutil.rmtree("runs")
    elif name == "export":
        arguments += ["--images", "1"]
        if {"--int8", "--half"} & set(arguments):
            arguments += ["--max-loss", "1"]  # the networks have learnt nothing that could be lost
    return tool(name, *arguments).stdout


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _unlike(found: list[Command]) -> list[Command]:
    """The commands without those that another page has, too."""
    return list({tuple(command.words): command for command in found}.values())


RUN = _unlike([command for command in OF_TOOLS if _runs(command)])
IN_SECONDS = [command for command in RUN if command.module in ("tools.predict", "tools.compare_runs")]


@pytest.mark.parametrize("command", IN_SECONDS, ids=lambda command: command.text[:70])
def test_quick_commands_run(command: Command, place: Path) -> None:
    _run(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for command in RUN if command not in IN_SECONDS], ids=lambda command: command.text[:70]
)
def test_the_other_commands_run(command: Command, place: Path) -> None:
    _run(command)


def test_enough_is_found() -> None:
    """The search for commands has not broken: each kind of place has some."""
    assert len(COMMANDS) > 60
    assert {"README.md", "first_hour.md", "report.md", "coming_from.md", "export.md"} <= {one.page for one in COMMANDS}
    assert len(RUN) > 25
    assert len(IN_SECONDS) >= 6
