"""Writes each notebook from its script: runs the cells and stores what they show.

    uv run --group notebooks examples/notebooks/sync.py [1_overflow ...]

The scripts are the source (jupytext's percent format); edit them, not the notebooks. A run on the
same versions writes the same bytes.
"""

import argparse
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("[0-9]_*.py"))}

# On a CPU; pictures go into the notebook. All else is as a reader finds it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
# As in the tests, warnings are errors; those of the kernel's own code would stop it.
FIRST = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")
"""


def read(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script: its cells, no outputs, and nothing that differs between runs."""
    notebook = jupytext.read(script)
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return notebook


def execute(notebook: nbformat.NotebookNode) -> None:
    """Runs all cells in a kernel of their own, in the scripts' folder, and stores their outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; it holds the traceback.
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        timeout=300,
        coalesce_streams=True,
        record_timing=False,
        # Without the warning, at each start, that the kernel listens on this machine in the clear.
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        client.execute(env=os.environ | ENVIRONMENT)
    finally:
        del notebook.cells[0]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count -= 1
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count -= 1
    # The kernel adds its version.
    notebook.metadata.language_info = {"name": "python"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of notebooks; by default all"
    )
    names = parser.parse_args().names or list(SCRIPTS)
    for name in names:
        notebook = read(SCRIPTS[name])
        execute(notebook)
        path = SCRIPTS[name].with_suffix(".ipynb")
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
