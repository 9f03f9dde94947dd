"""The notebooks are their scripts, run: the sources agree, the cells run, the outputs are clean."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("ipykernel", reason="needs the dependency group notebooks")
pytest.importorskip("jupytext", reason="needs the dependency group notebooks")
pytest.importorskip("nbclient", reason="needs the dependency group notebooks")
pytest.importorskip("optax", reason="needs the dependency group notebooks")
pytest.importorskip("sklearn", reason="needs the dependency group notebooks")
sys.path.append(str(Path(__file__).parents[1] / "examples" / "notebooks"))

import nbformat
from nbclient.exceptions import CellExecutionError

import sync

NAMES = list(sync.SCRIPTS)


def stored(name: str) -> Path:
    return sync.FOLDER / f"{name}.ipynb"


def test_each_script_has_a_notebook_and_each_notebook_a_script() -> None:
    assert len(NAMES) >= 6
    assert sorted(path.stem for path in sync.FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestStored:
    def test_is_what_the_script_says(self, name: str) -> None:
        notebook = nbformat.read(stored(name), as_version=4)
        nbformat.validate(notebook)
        assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
            (cell.cell_type, cell.source) for cell in sync.read(sync.SCRIPTS[name]).cells
        ], f"run examples/notebooks/sync.py {name}"

    def test_has_run_from_top_to_bottom(self, name: str) -> None:
        cells = nbformat.read(stored(name), as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert {output.output_type for output in outputs} <= {"stream", "display_data"}
        assert all(output.get("name") != "stderr" for output in outputs)
        assert any("image/png" in output.get("data", {}) for output in outputs)

    def test_says_nothing_of_the_machine(self, name: str) -> None:
        text = stored(name).read_text("utf-8")
        assert len(text) < 250_000
        notebook = json.loads(text)
        assert notebook["metadata"] == {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        assert all(cell["metadata"] == {} for cell in notebook["cells"])
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                shown = output.get("text", []) + output.get("data", {}).get("text/plain", [])
                paths = re.findall(r"(?:/[\w.-]+){2,}|[A-Z]:\\|0x[0-9a-f]{6,}", "".join(shown))
                assert not paths

    def test_links_lead_somewhere(self, name: str) -> None:
        cells = nbformat.read(stored(name), as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (sync.FOLDER / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs(name: str) -> None:
    """In a kernel of its own, with warnings as errors; a failure shows the cell's traceback."""
    notebook = sync.read(sync.SCRIPTS[name])
    sync.execute(notebook)
    pictures, before = (
        [[sorted(output.get("data", {})) for output in cell.get("outputs", [])] for cell in cells]
        for cells in (notebook.cells, nbformat.read(stored(name), as_version=4).cells)
    )
    assert pictures == before  # As many outputs of each kind as are stored.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", "DeprecationWarning"),
    ],
)
def test_a_broken_notebook_is_told(source: str, name: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(CellExecutionError, match=name):
        sync.execute(notebook)
