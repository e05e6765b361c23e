"""notebooks/first_hour.ipynb: from a folder of images to a detector that is worth the reader's time, on a CPU."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from detection.data.discovery import find_layout
from detection.data.readers.source import Options

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "first_hour.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: the notebook was not looked at")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs_and_its_links_lead_somewhere(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
            assert cell.outputs == []
            assert cell.execution_count is None
        for link in re.findall(r"\]\(([^)]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (NOTEBOOK.parent / link).is_file(), link


def test_its_data_set_is_drawn_and_found(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cell with code, with few images: the slow test below runs the whole."""
    monkeypatch.chdir(tmp_path)
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    exec(re.sub(r'(draw_split\(DATA, "\w+"), \d+', r"\1, 2", first), {})
    assert sorted(find_layout(tmp_path / "shapes", Options()).splits) == ["test", "train"]


@pytest.mark.slow
def test_it_runs_top_to_bottom(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [
        "".join(output.get("text", "") for output in cell.get("outputs", []) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]
    on_test, on_others = (
        float(one) for text in said for one in re.findall(r"^AP [\d.]+, AP@0\.5 ([\d.]+)$", text, re.M)
    )
    assert on_test >= 0.5
    assert on_others >= 0.5
    assert any(text.startswith("What to do next") for text in said)
    assert (tmp_path / "runs/shapes/evaluation/report.html").is_file()
    assert list((tmp_path / "predictions").rglob("0000*.jpg"))
