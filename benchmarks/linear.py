"""Times linear_cross_entropy beside losses of the whole logits, and tells their temporaries.

    uv run --group benchmark benchmarks/linear.py [--quick] [--cores 2] [--out benchmarks/results]

Loss and gradient of hidden states and weight, of the mean over the rows. Calls are interleaved
and medians taken, as in run.py; the spread is the least and the most of the ratio to the plain
computation's median. optax and tokamax are measured where they are installed.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import run

SHAPES = ((1024, 576, 49152), (256, 576, 49152), (1024, 576, 50257))
QUICK = ((256, 576, 49152),)
HEADERS = (
    "rows, D, V",
    "loss and gradient",
    "ms",
    "of plain",
    "spread",
    "temporaries, MB",
    "of plain",
)


class Row(NamedTuple):
    """One way on one shape: seconds of each call, and bytes."""

    shape: tuple[int, int, int]
    name: str
    seconds: list[float]
    temporaries: int


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark of linear_cross_entropy.")
    parser.add_argument("--quick", action="store_true", help="one shape, three calls")
    parser.add_argument("--cores", type=run.core_count, default=2, help="to run on (default: 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="where the table goes"
    )
    return parser.parse_args()


def losses() -> dict[str, Callable]:
    """The mean loss, from hidden states, weight and labels."""
    import jax
    import jax.numpy as jnp

    import jsoftmax

    def plain(hidden, weight, labels):
        logits = hidden @ weight
        at_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - at_label)

    found = {
        "plain": plain,
        "jsoftmax.linear_cross_entropy": lambda h, w, y: jnp.mean(
            jsoftmax.linear_cross_entropy(h, w, y)
        ),
        "jsoftmax.cross_entropy": lambda h, w, y: jnp.mean(jsoftmax.cross_entropy(h @ w, y)),
    }
    with suppress(ImportError):
        import optax

        found["optax"] = lambda h, w, y: jnp.mean(
            optax.losses.softmax_cross_entropy_with_integer_labels(h @ w, y)
        )
    with suppress(ImportError):
        import tokamax

        found["tokamax, chunked_xla"] = lambda h, w, y: tokamax.linear_softmax_cross_entropy_loss(
            h, y, w, reduction="mean", implementation="chunked_xla"
        )
    return found


def measure(shape: tuple[int, int, int], calls: int) -> list[Row]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    rows, width, vocabulary = shape
    draw = np.random.default_rng(0)
    hidden = jnp.asarray(draw.normal(size=(rows, width)), jnp.float32)
    weight = jnp.asarray(draw.normal(size=(width, vocabulary)) * 0.05, jnp.float32)
    labels = jnp.asarray(draw.integers(0, vocabulary, rows), jnp.int32)
    data = hidden, weight, labels
    compiled = {}
    for name, loss in losses().items():
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        try:
            compiled[name] = step.lower(*data).compile()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
    results = {name: jax.block_until_ready(step(*data)) for name, step in compiled.items()}
    for name, (loss, gradient) in results.items():
        wanted, expected = results["plain"]
        worst = max(
            float(jnp.abs(a - b).max() / jnp.abs(b).max())
            for a, b in zip(gradient, expected, strict=True)
        )
        print(f"{shape} {name}: loss off by {float(loss - wanted):.1e}, gradients by {worst:.1e}")
    del results
    steps = {
        name: lambda step=step: jax.block_until_ready(step(*data))
        for name, step in compiled.items()
    }
    seconds = run.interleave(steps, seconds=0, least=calls)
    return [
        Row(shape, name, seconds[name], step.memory_analysis().temp_size_in_bytes)
        for name, step in compiled.items()
    ]


def table(rows: list[Row]) -> list[str]:
    lines = ["| " + " | ".join(HEADERS) + " |", "|---" * len(HEADERS) + "|"]
    for row in rows:
        (plain,) = (other for other in rows if (other.shape, other.name) == (row.shape, "plain"))
        unit = statistics.median(plain.seconds)
        cells = [
            ", ".join(map(str, row.shape)),
            row.name,
            f"{1000 * statistics.median(row.seconds):.0f}",
            f"{statistics.median(row.seconds) / unit:.2f}",
            f"{min(row.seconds) / unit:.2f} to {max(row.seconds) / unit:.2f}",
            f"{row.temporaries / 1e6:.1f}",
            f"{row.temporaries / plain.temporaries:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    arguments = parse()
    run.restart_pinned(arguments.cores)
    import jax

    cores = f"{arguments.cores} core" + "s" * (arguments.cores > 1)
    about = (
        f"{run.processor()}, {cores}; Python {platform.python_version()}, jax {jax.__version__}; "
        f"benchmarks/linear.py{' --quick' * arguments.quick} --cores {arguments.cores}"
    )
    rows = []
    for shape in QUICK if arguments.quick else SHAPES:
        rows += measure(shape, 3 if arguments.quick else 11)
    lines = [about, "", *table(rows)]
    print("\n".join(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    quick = "-quick" * arguments.quick
    name = f"linear-jax-{jax.__version__}-{arguments.cores}-cores{quick}.md"
    (arguments.out / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
