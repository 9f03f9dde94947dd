"""The pages for readers who come from another library: every code cell of their tables is run.

A page's first Python block defines the names that its tables use; `real` are logits of a language
model. The comment above a table says what is asserted of its rows:

- same: the left and the right cell compute the same, to float32 rounding;
- draws: they draw from the same distribution;
- differs: a cell is a computation and what comes of it (a value, or an exception); both are as
  written, and not alike.

jax and optax run beside jsoftmax. torch and transformers are too large for the test group: what
they gave is in tests/data/migration.json, keyed by the cell, and is compared instead. Where they
are installed they run too, and are compared with what is stored.

python -m tests.test_migration --write    # stores it anew, where both are installed
"""

import importlib
import json
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import real_logits

DOCS = Path(__file__).parent.parent / "docs"
STORED = Path(__file__).parent / "data" / "migration.json"
PAGES = ("from_jax_nn", "from_hugging_face", "from_optax", "from_torch")
FOREIGN = {"from_hugging_face": ("torch", "transformers"), "from_torch": ("torch",)}
DRAWS = 20_000

SETUP = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^<!-- (\w+) -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)
CELL = re.compile(r"`([^`]+)`(?: → `([^`]+)`)?")


class Cell(NamedTuple):
    code: str
    result: str | None


class Row(NamedTuple):
    page: str
    kind: str
    left: Cell
    right: Cell


@cache
def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def rows() -> list[Row]:
    found = []
    for page in PAGES:
        for kind, body in TABLE.findall(text_of(page)):
            for line in body.splitlines():
                cells = [CELL.fullmatch(cell.strip()) for cell in line.strip("|").split(" | ")]
                code = [Cell(*match.groups()) for match in cells if match]
                assert len(code) == 2, f"{page}: not two cells of code: {line}"
                found.append(Row(page, kind, *code))
    return found


ROWS = rows()


def name_of(row: Row) -> str:
    return f"{row.page}: {row.left.code}"


def each(kind: str) -> pytest.MarkDecorator:
    """Parametrizes a test by the rows of a kind."""
    return pytest.mark.parametrize("row", [row for row in ROWS if row.kind == kind], ids=name_of)


@cache
def setup(page: str) -> dict[str, Any]:
    """The names that a page's first block defines."""
    match = SETUP.search(text_of(page))
    assert match is not None
    names: dict[str, Any] = {"real": real_logits.load()}
    exec(compile(match[1], f"{page}.md", "exec"), names)
    return names


def names_of_jax(page: str) -> dict[str, Any]:
    arrays = {name: jnp.asarray(v) for name, v in setup(page).items() if isinstance(v, np.ndarray)}
    return {"jax": jax, "jnp": jnp, "key": jax.random.key(0)} | setup(page) | arrays


def names_of_torch(page: str) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    tensors = {
        name: torch.tensor(v) for name, v in setup(page).items() if isinstance(v, np.ndarray)
    }
    names = {"torch": torch, "F": torch.nn.functional, **tensors}
    names["Categorical"] = torch.distributions.Categorical
    if page == "from_hugging_face":
        generation = importlib.import_module("transformers.generation")
        names |= {name: getattr(generation, name) for name in dir(generation) if "Logit" in name}
        names["generate"] = generate()
    return names


def generate() -> Callable[..., Any]:
    """The scores that `generate` of transformers draws from, given the logits and its settings."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    modeling_outputs = importlib.import_module("transformers.modeling_outputs")

    class Fixed(transformers.PreTrainedModel, transformers.GenerationMixin):
        """Gives the same logits whatever it reads."""

        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any, logits: Any) -> None:
            super().__init__(config)
            self.logits = torch.nn.Parameter(logits)

        def forward(self, input_ids: Any, **_: Any) -> Any:
            logits = self.logits[:, None].expand(-1, input_ids.shape[1], -1)
            return modeling_outputs.CausalLMOutputWithPast(logits=logits)

    def scores(logits: Any, **settings: Any) -> Any:
        model = Fixed(transformers.PretrainedConfig(vocab_size=logits.shape[1]), logits)
        return model.generate(
            torch.ones(len(logits), 1, dtype=torch.long),
            **{"do_sample": True, "pad_token_id": 0, "max_new_tokens": 1, **settings},
            use_cache=False,
            output_scores=True,
            return_dict_in_generate=True,
        ).scores[0]

    return scores


def evaluate(code: str, names: dict[str, Any]) -> Any:
    """What a cell gives, or the name of the exception that it raises."""
    try:
        return plain(eval(code, names))
    except Exception as error:
        return type(error).__name__


def plain(value: Any) -> Any:
    """An array in float64, whosever it was; shapes as they are."""
    if isinstance(value, str | tuple):
        return tuple(value) if isinstance(value, tuple) else value
    if hasattr(value, "detach"):
        value = value.detach().double().numpy()
    return np.asarray(value, np.float64)


def as_written(text: str) -> Any:
    """A result on a page: `[0.5, nan]`, `(2,)`, `ValueError`."""
    if re.fullmatch(r"[A-Z]\w+", text) and text not in ("True", "False"):
        return text
    value = eval(text, {"nan": math.nan, "inf": math.inf})
    return value if isinstance(value, tuple) else np.asarray(value, np.float64)


def assert_alike(actual: Any, expected: Any, rtol: float, atol: float) -> None:
    if isinstance(expected, str | tuple):
        assert actual == expected
        return
    assert not isinstance(actual, str), f"raised {actual}"
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def moments(drawn: np.ndarray, page: str) -> np.ndarray:
    """The means, over the first axis, of the draws, their squares and fourth powers.

    An index is taken as one-hot.
    """
    if np.issubdtype(drawn.dtype, np.integer):
        drawn = np.arange(setup(page)["x"].shape[-1]) == drawn[..., None]
    drawn = drawn.astype(np.float64)
    return np.stack([(drawn**power).mean(0) for power in (1, 2, 4)])


def moments_by_jax(row: Row, cell: Cell) -> np.ndarray:
    names = names_of_jax(row.page)
    keys = jax.random.split(jax.random.key(sum(map(ord, cell.code))), DRAWS)
    drawn = jax.vmap(lambda key: eval(cell.code, names | {"key": key}))(keys)
    return moments(np.asarray(drawn), row.page)


def moments_by_torch(row: Row) -> np.ndarray:
    names = names_of_torch(row.page)
    return moments(np.stack([eval(row.left.code, names) for _ in range(DRAWS)]), row.page)


def run_by_torch(row: Row) -> Any:
    """What the left cell of a row gives, where its library is installed."""
    if row.kind == "draws":
        return moments_by_torch(row)
    return evaluate(row.left.code, names_of_torch(row.page))


@cache
def stored() -> dict[str, dict[str, Any]]:
    return json.loads(STORED.read_text(encoding="utf-8"))["pages"]


def by_peer(row: Row) -> Any:
    """What the left cell gives: run here, or stored."""
    if row.page not in FOREIGN:
        # optax and others promote implicitly, which the tests forbid here.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return (
                moments_by_jax(row, row.left)
                if row.kind == "draws"
                else evaluate(row.left.code, names_of_jax(row.page))
            )
    result = stored()[row.page][row.left.code]
    return result if isinstance(result, str) else np.asarray(result, np.float64)


@each("same")
def test_same(row: Row) -> None:
    theirs, ours = by_peer(row), evaluate(row.right.code, names_of_jax(row.page))
    assert not isinstance(theirs, str), f"raised {theirs}"
    assert not np.isnan(theirs).any()
    assert_alike(ours, theirs, rtol=3e-6, atol=1e-6)


def assert_same_moments(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within five standard deviations of the difference of two means."""
    assert ours.shape == theirs.shape
    deviation = np.sqrt(2 * (ours[1:] - ours[:-1] ** 2) / DRAWS)
    assert (np.abs(ours - theirs)[:-1] <= 5 * deviation + 1e-9).all()


@each("draws")
def test_same_distribution(row: Row) -> None:
    assert_same_moments(moments_by_jax(row, row.right), by_peer(row))


@each("differs")
def test_differs_as_written(row: Row) -> None:
    assert row.left.result is not None
    assert row.right.result is not None
    assert row.left.result != row.right.result
    assert_alike(by_peer(row), as_written(row.left.result), rtol=5e-3, atol=0)
    ours = evaluate(row.right.code, names_of_jax(row.page))
    assert_alike(ours, as_written(row.right.result), rtol=5e-3, atol=0)


@pytest.mark.parametrize("page", FOREIGN)
def test_every_cell_of_theirs_is_stored(page: str) -> None:
    cells = dict.fromkeys(row.left.code for row in ROWS if row.page == page)
    assert list(stored()[page]) == list(cells)


@pytest.mark.filterwarnings("ignore")  # theirs, of what they will change
@pytest.mark.parametrize("page", FOREIGN)
def test_stored_is_what_the_peer_gives(page: str) -> None:
    for module in FOREIGN[page]:
        pytest.importorskip(module)
    for row in [row for row in ROWS if row.page == page]:
        if row.kind == "draws":
            assert_same_moments(run_by_torch(row), by_peer(row))
        else:
            assert_alike(run_by_torch(row), by_peer(row), rtol=1e-6, atol=1e-7)


def test_optax_promotes_implicitly_as_its_page_says() -> None:
    code = "jax.vmap(optax.projections.projection_simplex)(x)"
    assert evaluate(code, names_of_jax("from_optax")) == "TypePromotionError"


def test_pages_name_the_versions_that_are_stored() -> None:
    versions = json.loads(STORED.read_text(encoding="utf-8"))["versions"]
    release = {name: ".".join(version.split(".")[:2]) for name, version in versions.items()}
    assert f"PyTorch {release['torch']} " in text_of("from_torch")
    both = f"transformers {release['transformers']} and PyTorch {release['torch']} "
    assert both in text_of("from_hugging_face")


def test_every_page_has_its_tables() -> None:
    # A table whose comment or form is not understood would be left out in silence.
    for page in PAGES:
        lines = re.findall(r"^\| .*`.*\|$", text_of(page), re.MULTILINE)
        assert len(lines) == len([row for row in ROWS if row.page == page])


def write() -> None:
    """Runs the left cells of torch and transformers, and stores what they give."""
    pages = {page: {} for page in FOREIGN}
    for row in ROWS:
        if row.page in FOREIGN:
            result = run_by_torch(row)
            pages[row.page][row.left.code] = (
                result if isinstance(result, str) else np.round(result, 9).tolist()
            )
    versions = {name: importlib.import_module(name).__version__ for name in FOREIGN[PAGES[1]]}
    lines = [
        f"{json.dumps(page)}: {{\n"
        + ",\n".join(f"{json.dumps(code)}: {json.dumps(result)}" for code, result in cells.items())
        + "\n}"
        for page, cells in pages.items()
    ]
    text = f'{{"versions": {json.dumps(versions)},\n"pages": {{\n' + ",\n".join(lines) + "\n}}\n"
    STORED.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
