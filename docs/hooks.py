"""What the documentation is made of besides Markdown: formulas, and links to the reference.

Formulas become MathML: browsers draw it by themselves, with nothing to fetch. Docstrings hold them
as Sphinx does, `.. math:: TeX` on its own line and :math:`TeX` in a text; pages as GitHub does, in
a block of code of the language math and as $`TeX`$.

The name of a public function in backticks, in a page or a docstring, leads to the reference.
"""

import re
from pathlib import Path

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

# The first alternative takes the indented lines that go on with a formula too.
FORMULA = re.compile(
    r"^\.\. math:: *(.*(?:\n +\S.*)*)|^```math\n([^`]*)```$|:math:`([^`]+)`|\$`([^`]+)`\$",
    re.MULTILINE,
)

LINK_OR_CODE = re.compile(r"<a\b.*?</a>|<code>([\w.]+)</code>", re.DOTALL)
REFERENCE = "api.md"
NAMES = re.findall(
    r"^::: (jsoftmax\.[\w.]+)$",
    Path(__file__).with_name(REFERENCE).read_text(encoding="utf-8"),
    re.MULTILINE,
)
PUBLIC = {name.rpartition(".")[2]: name for name in NAMES} | {name: name for name in NAMES}
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source|video)\b[^>]*(?:src|href)=\"?(?:https?:)?//"
)


class Formulas(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def draw(match: re.Match[str]) -> str:
            sphinx, github, *inline = match.groups()
            for formula in inline:
                if formula:
                    return self.md.htmlStash.store(convert(formula))
            block = sphinx or github
            # In a box of its own, which scrolls where the screen is narrower than the formula.
            mathml = convert(" ".join(block.split()), display="block")
            return self.md.htmlStash.store(f'<div class="formula">{mathml}</div>')

        return FORMULA.sub(draw, "\n".join(lines)).split("\n")


class FormulasExtension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        # After whitespace is normalised (30), which would break placeholders; before blocks of code
        # (25) and HTML (20).
        md.preprocessors.register(Formulas(md), "formulas", 27)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the extension; mkdocs calls this."""
    config.markdown_extensions.append(FormulasExtension())
    return config


def on_page_content(html: str, page: Page, files: Files, **_: object) -> str:
    """Makes links of the names of public functions, and marks pages of code beside code."""
    reference = files.get_file_from_path(REFERENCE)
    if reference is None:
        raise PluginError(f"there is no {REFERENCE}")
    url = get_relative_url(reference.url, page.url)

    def link(match: re.Match[str]) -> str:
        name = PUBLIC.get(match[1] or "")
        return f'<a href="{url}#{name}">{match[0]}</a>' if name else match[0]

    linked = LINK_OR_CODE.sub(link, html)
    return f'<div class="beside">{linked}</div>' if page.file.name.startswith("from_") else linked


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Fails the build where a formula was not drawn, or a page fetches from elsewhere."""
    if re.search(r"math::|:math:|language-math|\$<code>|wzxhzdk", output):
        raise PluginError(f"{page.file.src_uri}: a formula was not drawn")
    fetched = FETCHED.search(output)
    # The theme asks GitHub about a repository that it is told of.
    if fetched or 'data-md-component="source"' in output:
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {fetched}")
    return output
