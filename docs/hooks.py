"""Formulas in the documentation as MathML: browsers draw it by themselves, with nothing to fetch.

Docstrings hold formulas as Sphinx does: `.. math:: TeX` on its own line, :math:`TeX` in a text.
"""

import re

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

# The first alternative takes the indented lines that go on with a formula too.
FORMULA = re.compile(r"^\.\. math:: *(.*(?:\n +\S.*)*)|:math:`([^`]+)`", re.MULTILINE)


class Formulas(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def draw(match: re.Match[str]) -> str:
            block, inline = match.groups()
            mathml = (
                convert(inline) if inline else convert(" ".join(block.split()), display="block")
            )
            return self.md.htmlStash.store(mathml)

        return FORMULA.sub(draw, "\n".join(lines)).split("\n")


class FormulasExtension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # After whitespace is normalised (30), which would break placeholders; before HTML (20).
        md.preprocessors.register(Formulas(md), "formulas", 25)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the extension; mkdocs calls this."""
    config.markdown_extensions.append(FormulasExtension())
    return config


def on_post_page(output: str, **_: object) -> str:
    """Fails the build where a formula was not drawn; mkdocs calls this.

    The link to the repository loses its mark, for which the theme would ask GitHub for stars and
    releases whenever a page is read.
    """
    if re.search(r"math::|:math:|wzxhzdk", output):
        raise PluginError("a formula was not drawn")
    return output.replace(' data-md-component="source"', "")
