"""The notebook equals its script and runs, in its short setting."""

import os
import re
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(path.stem for path in COLAB.glob("*.ipynb"))


def cells(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_equals_its_script(name):
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    script = jupytext.read(COLAB / f"{name}.py")
    assert cells(notebook) == cells(script)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_badge_opens_this_notebook_and_the_install_is_guarded(name):
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    first, install = notebook.cells[0].source, notebook.cells[1].source
    assert f"colab.research.google.com/github/memjax/memjax/blob/main/colab/{name}.ipynb" in first
    guard, line = (
        install.index(text) for text in ('if "google.colab" in sys.modules', "pip install")
    )
    assert guard < line


def set_environment(monkeypatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(COLAB.parent)]))


def execute(notebook, folder) -> str:
    """Runs a notebook in a folder; returns what it printed."""
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )


def shown(notebook, kind: str) -> list:
    """Returns the outputs of one MIME type."""
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")  # the kernel's own sockets; what runs is another process
def test_notebook_runs_in_its_short_setting(tmp_path, monkeypatch):
    set_environment(monkeypatch)
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    settings = next(c for c in notebook.cells if c.source.startswith("# @title Settings"))
    assert 'CONFIG = "phantoms_demo"  #' in settings.source
    settings.source = settings.source.replace('"phantoms_demo"', '"phantoms_demo:short"', 1)
    began = time.monotonic()
    printed = execute(notebook, tmp_path)
    assert time.monotonic() - began < 300  # a minute on a quiet machine
    assert "detector: first_k AUC" in printed
    assert "copies of memorized prompts:" in printed
    assert f"forward evaluations: {4 * (3 + 1)}" in printed
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    assert len(shown(notebook, "text/html")) == 1


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")
def test_stable_diffusion_notebook_runs_on_a_tiny_random_pipeline(tmp_path, monkeypatch):
    set_environment(monkeypatch)
    notebook = nbformat.read(COLAB / "stable_diffusion.ipynb", as_version=4)
    settings = next(c for c in notebook.cells if c.source.startswith("# @title Settings"))
    for name, usual, small in (
        ("MODEL", '"CompVis/stable-diffusion-v1-4"', '"tiny"'),
        ("NUM_STEPS", "50", "4"),
    ):
        assert f"{name} = {usual}  #" in settings.source
        settings.source = settings.source.replace(f"{name} = {usual}", f"{name} = {small}")
    printed = execute(notebook, tmp_path)
    assert f"forward evaluations: {2 * (7 + 1)}" in printed
    assert printed.count(" updates: ") == 3
    changes = re.findall(r"^([\d.]+) -> ([\d.]+) in", printed, re.MULTILINE)
    assert len(changes) == 3
    assert all(float(after) <= float(before) for before, after in changes)
    assert len(shown(notebook, "image/png")) == 4  # the words, and three pairs of images
