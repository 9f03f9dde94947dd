"""Measures the README's table of edge cases and prints it; `--write` puts it in place."""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- edge cases: begin (made by docs/edge_cases.py) -->\n"
END = "<!-- edge cases: end -->\n"

ROWS, VOCABULARY = 2000, 4096
INF = jnp.inf


def show(value: jax.Array) -> str:
    """An array as a reader would write it: three digits, `nan` and `inf` in words."""
    values = np.atleast_1d(np.asarray(value, np.float64))
    text = ", ".join("0" if v == 0 else f"{v:.3g}" for v in values)
    return f"`[{text}]`" if np.ndim(value) else f"`{text}`"


def entropy_by_log_softmax(logits: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p)


def entropy_by_entr(logits: jax.Array) -> jax.Array:
    return jnp.sum(jax.scipy.special.entr(jax.nn.softmax(logits)))


def first(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda logits: f(logits)[0]


def row_sum_error(softmax: Callable[[jax.Array], jax.Array]) -> str:
    """How far the worst row of a bfloat16 softmax is from summing to 1."""
    logits = jax.random.normal(jax.random.key(0), (64, VOCABULARY)).astype(jnp.bfloat16)
    sums = np.asarray(softmax(logits), np.float64).sum(-1)
    return f"{np.abs(sums - 1).max():.0e}"


def mean_token(draw: Callable[[jax.Array, jax.Array], jax.Array]) -> str:
    """The mean of many tokens drawn from equal bfloat16 logits."""
    logits = jnp.zeros((ROWS, VOCABULARY), jnp.bfloat16)
    return f"{np.asarray(draw(jax.random.key(0), logits)).mean():.0f}"


def table() -> str:
    nothing = jnp.full(3, -INF)
    nan = jnp.array([1.0, 2.0, jnp.nan])
    two = jnp.array([True, True, False])
    hole = jnp.array([1.0, 2.0, -INF])
    ties = jnp.array([1.0, 2.0, 2.0])
    mean = f"{(VOCABULARY - 1) / 2:.1f} ± {np.sqrt((VOCABULARY**2 - 1) / 12 / ROWS):.0f}"

    rows = [
        (
            "softmax of a row with nothing allowed, `[-inf, -inf, -inf]`",
            show(jax.nn.softmax(nothing)),
            show(jsoftmax.softmax(nothing)),
        ),
        (
            "its gradient (of the first probability)",
            show(jax.grad(first(jax.nn.softmax))(nothing)),
            show(jax.grad(first(jsoftmax.softmax))(nothing)),
        ),
        (
            "gradient of logsumexp there",
            show(jax.grad(jax.nn.logsumexp)(nothing)),
            show(jax.grad(jsoftmax.logsumexp)(nothing)),
        ),
        (
            "masked NaN: `[1, 2, nan]`, `where=[True, True, False]`",
            show(jax.nn.softmax(nan, where=two)),
            show(jsoftmax.softmax(nan, where=two)),
        ),
        (
            "T = 0 for `[1, 2, 2]` (`jax.nn`: `softmax(x / T)`)",
            show(jax.nn.softmax(ties / 0.0)),
            show(jsoftmax.softmax(ties, temperature=0.0)),
        ),
        (
            "its gradient (of the first probability)",
            show(jax.grad(first(lambda x: jax.nn.softmax(x / 0.0)))(ties)),
            show(jax.grad(first(lambda x: jsoftmax.softmax(x, temperature=0.0)))(ties)),
        ),
        (
            "entropy of `[1, 2, -inf]`, by `log_softmax`",
            show(entropy_by_log_softmax(hole)),
            show(jsoftmax.entropy(hole)),
        ),
        (
            "its gradient, by `log_softmax`",
            show(jax.grad(entropy_by_log_softmax)(hole)),
            show(jax.grad(jsoftmax.entropy)(hole)),
        ),
        (
            "its gradient, by `softmax` and `entr`",
            show(jax.grad(entropy_by_entr)(hole)),
            show(jax.grad(jsoftmax.entropy)(hole)),
        ),
        (
            f"bfloat16 softmax of [64, {VOCABULARY}]: the worst row's sum is off 1 by",
            row_sum_error(jax.nn.softmax),
            row_sum_error(jsoftmax.softmax),
        ),
        (
            f"mean of {ROWS} tokens drawn from {VOCABULARY} equal bfloat16 logits (right: {mean})",
            mean_token(jax.random.categorical),
            mean_token(jsoftmax.sample),
        ),
    ]
    lines = ["| case | `jax.nn`, `jax.random.categorical` | jsoftmax |", "|---|---|---|"]
    lines += [f"| {case} | {theirs} | {ours} |" for case, theirs, ours in rows]
    return "\n".join(lines) + "\n"


def split_readme() -> tuple[str, str, str]:
    """The README before, inside and after the table."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    if parser.parse_args().write:
        before, _, after = split_readme()
        README.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
