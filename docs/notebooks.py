"""The notebooks of examples/notebooks as pages of the site, with the outputs that are stored.

nbconvert makes Markdown of them, so that a page looks like any other, its formulas become MathML as
all do (hooks.py), and nothing is fetched when it is read. Nothing runs when the site is built.
"""

import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"

# What a cell prints is set apart from its source (assets/notebooks.css).
TEMPLATE = """{% extends 'markdown/index.md.j2' %}
{% block stream %}
``` { .text .output }
{{ output.text }}
```
{% endblock stream %}
{% block data_text %}
``` { .text .output }
{{ output.data['text/plain'] }}
```
{% endblock data_text %}
{% block data_png %}
![The picture that this code draws]({{ output.metadata.filenames['image/png'] | path2url }})
{% endblock data_png %}
"""

HOW_TO_OPEN = """

*This page is a notebook: `examples/notebooks/{name}.ipynb` in the repository. To run it and change
it, from a checkout: `uv run --group notebooks --with jupyterlab jupyter lab examples/notebooks`.*
"""

# Code first, in which a dollar sign is no formula.
CODE_OR_FORMULA = re.compile(r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


def formulas(text: str) -> str:
    """Writes the formulas of a notebook as docstrings do, which hooks.py draws."""

    def rewrite(match: re.Match[str]) -> str:
        code, block, inline = match.groups()
        if code:
            return code
        return f".. math:: {' '.join(block.split())}" if block else f":math:`{inline}`"

    return CODE_OR_FORMULA.sub(rewrite, text)


def convert(path: Path) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its pictures by their place beside it."""
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0]
    heading, _, rest = title.source.partition("\n")
    title.source = heading + HOW_TO_OPEN.format(name=path.stem) + rest
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", formulas(cell.source))
    exporter = MarkdownExporter(raw_template=TEMPLATE)
    page, resources = exporter.from_notebook_node(
        notebook, {"unique_key": "cell", "output_files_dir": path.stem}
    )
    return page, resources["outputs"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; mkdocs calls this."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        page, pictures = convert(path)
        # Included, so that the build fails where the nav lacks it.
        inclusion = InclusionLevel.INCLUDED
        name = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, name, content=page, inclusion=inclusion))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leads links to a notebook in the repository to its page here; mkdocs calls this."""
    return re.sub(r"\]\(\.\./examples/notebooks/(\w+)\.ipynb\)", r"](notebooks/\1.md)", markdown)
