"""What the documentation says is true: every Python block and every docstring example runs."""

import doctest
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import ParamSpec

import numpy as np
import pytest
from packaging.version import Version

import jsoftmax
from jsoftmax import plot, testing

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
NUMBER = re.compile(r"-?(?:\d+\.\d*|\.\d+|\d+)(?:e[+-]?\d+)?")


class Checker(doctest.OutputChecker):
    """Compares numbers to five digits (the rest differ between versions of XLA), words exactly."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        want_words, got_words = ("".join(NUMBER.sub("#", text).split()) for text in (want, got))
        want_numbers, got_numbers = (
            [float(n) for n in NUMBER.findall(text)] for text in (want, got)
        )
        return want_words == got_words and np.allclose(
            want_numbers, got_numbers, rtol=1e-5, atol=1e-6
        )


def run_examples(source: str, title: str, line: int) -> None:
    """Runs `>>>` examples, which import what they use."""
    test = doctest.DocTestParser().get_doctest(source, {}, title, title, line)
    report: list[str] = []
    doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE).run(
        test, out=report.append
    )
    assert not report, "".join(report)


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """The line on which each Python block of a page starts, and its source."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def shown(number: float) -> str:
    """As the README has it."""
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"


def test_the_readme_says_what_was_measured() -> None:
    pages = [path.stem.removeprefix("jax-") for path in RESULTS.glob("jax-*.md")]
    newest = max((version for version in pages if "cores" not in version), key=Version)
    text = (RESULTS / f"jax-{newest}.md").read_text(encoding="utf-8")
    measured = {
        (cells[0], cells[1]): (shown(float(cells[6])), shown(float(cells[3])))
        for line in text.split("\n\n")[1].splitlines()[2:]
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"jax {newest}," in page
    rows = re.findall(r"^\| (`.*) \| ([\d.]+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 9
    for job, softmaxes, beside in rows:
        factors = re.findall(r"([^:;]+): ([\d.]+)", beside)
        assert len(factors) == beside.count(";") + 1
        for peer, factor in factors:
            kinds = ("bisection", "sort", "categorical", "jax")
            kind = next(kind for kind in kinds if kind in peer)
            assert measured[job.replace("`", ""), kind] == (softmaxes, factor), job


BLOCKS = [
    pytest.param(page, line, source, id=f"{page.relative_to(ROOT)}:{line + 1}")
    for page in PAGES
    for line, source in python_blocks(page)
]


@pytest.mark.parametrize(("page", "line", "source"), BLOCKS)
def test_block(page: Path, line: int, source: str) -> None:
    # Each block stands alone: a reader can copy any one of them.
    if ">>>" in source:
        run_examples(source, str(page), line)
    else:
        # The blank lines make a traceback point at the page's own line.
        exec(compile("\n" * line + source, str(page), "exec"), {"__name__": "block"})


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(jsoftmax.__path__, "jsoftmax.")]
    return [jsoftmax, *map(importlib.import_module, names)]


def docstrings() -> dict[str, str]:
    """Every docstring of the package that has an example, whatever kind of object carries it."""
    found: dict[str, str] = {}
    for module in modules():
        documented: dict[str, object] = {module.__name__: module}
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and not isinstance(
                value, ParamSpec
            ):
                documented[f"{module.__name__}.{name}"] = value
                if inspect.isclass(value):
                    documented |= {
                        f"{module.__name__}.{name}.{key}": item for key, item in vars(value).items()
                    }
        found |= {
            name: value.__doc__
            for name, value in documented.items()
            if isinstance(value.__doc__, str) and ">>>" in value.__doc__
        }
    return found


DOCSTRINGS = docstrings()


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_docstring(name: str) -> None:
    run_examples(DOCSTRINGS[name], name, 0)


def public_functions() -> dict[str, object]:
    """What is callable by its public name: that of the package, or of a public submodule."""
    public: dict[str, object] = {}
    for name in jsoftmax.__all__:
        value = getattr(jsoftmax, name)
        if inspect.ismodule(value):
            public |= {f"{name}.{each}": getattr(value, each) for each in value.__all__}
        elif callable(value):
            public[name] = value
    for module in (plot, testing):
        name = module.__name__.rpartition(".")[2]
        public |= {f"{name}.{each}": getattr(module, each) for each in module.__all__}
    return public


PUBLIC_FUNCTIONS = public_functions()


@pytest.mark.parametrize("name", PUBLIC_FUNCTIONS)
def test_public_function_has_an_example_that_runs(name: str) -> None:
    function = PUBLIC_FUNCTIONS[name]
    assert f"{function.__module__}.{name.rpartition('.')[2]}" in DOCSTRINGS


def test_api_page_names_every_public_function() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: jsoftmax\.([\w.]+)$", page, re.MULTILINE)) == sorted(
        PUBLIC_FUNCTIONS
    )


def test_relative_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_table_is_what_the_script_measures() -> None:
    path = ROOT / "docs" / "edge_cases.py"
    spec = importlib.util.spec_from_file_location("edge_cases", path)
    assert spec is not None
    assert spec.loader is not None
    edge_cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(edge_cases)
    _, written, _ = edge_cases.split_readme()
    assert written == edge_cases.table(), "run docs/edge_cases.py --write, and read what changed"
