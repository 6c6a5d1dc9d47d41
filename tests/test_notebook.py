"""The notebook equals its script and runs, in its short setting."""

import os
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[1] / "colab"


def cells(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_notebook_equals_its_script():
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    script = jupytext.read(COLAB / "quickstart.py")
    assert cells(notebook) == cells(script)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_badge_opens_this_notebook_and_the_install_is_guarded():
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    first, install = notebook.cells[0].source, notebook.cells[1].source
    assert (
        "colab.research.google.com/github/memjax/memjax/blob/main/colab/quickstart.ipynb" in first
    )
    guard, line = (
        install.index(text) for text in ('if "google.colab" in sys.modules', "pip install")
    )
    assert guard < line


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the kernel's own sockets; what runs is another process
def test_notebook_runs_in_its_short_setting(tmp_path, tmp_path_factory, monkeypatch):
    # Programs that tests/cli compiled already, with the same settings, are not compiled again.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv(
        "JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "programs")
    )
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(COLAB.parent)]))
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    settings = next(c for c in notebook.cells if c.source.startswith("# @title Settings"))
    assert 'CONFIG = "phantoms_demo"  #' in settings.source
    settings.source = settings.source.replace('"phantoms_demo"', '"phantoms_demo:short"', 1)
    began = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert time.monotonic() - began < 300  # a minute on a quiet machine
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "detector: first_k AUC" in printed
    assert "copies of memorised prompts:" in printed
    assert f"forward evaluations: {4 * (3 + 1)}" in printed
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    pages = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    assert len(pages) == 1
