"""Measures rounding errors of the maps, the losses and their gradients, beside those of the peers.

    uv run --group benchmark benchmarks/numerics.py [--quick] [--out benchmarks/results]
    uv run --group benchmark benchmarks/numerics.py --functions "sparsemax, gradient" --seed 1

Rows of 1 to 1,000,000 logits at scales from 1e-30 to 1e30 (random, with one entry far above the
rest, and quantised), in four dtypes, against the same formulas in float64; in the widest float of
NumPy for float64 itself. Errors are in units of the result's own precision: docs/numerics.md says
which. optax, PyTorch and its entmax are measured too where they are installed. Some functions
alone replace their rows of a table of the same versions; other rows (a seed) are only printed.
"""

import argparse
import itertools
import operator
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jsoftmax

DTYPES = ("float16", "bfloat16", "float32", "float64")
LENGTHS = (1, 2, 10, 1000, 50_257, 1_000_000)
SCALES = (*(10.0**e for e in range(-30, 0, 6)), 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)
SCALES += tuple(10.0**e for e in range(6, 31, 6))
SCALES_OF_LONG_ROWS = (1e-30, 0.1, 3.0, 30.0, 1e30)
ENTRIES = 200_000  # Of the rows of one kind, length and scale, if one row is no longer.
EDGE = {np.dtype(np.float64): 2.0**-20, np.dtype(np.longdouble): 2.0**-49}
"""Of a support: eight times the precision that is measured against this one."""
KINDS = ("random", "peaked", "quantised")
T = 0.75
"""A temperature that is a number of every dtype, and of which the reciprocal is not."""

Wide = NDArray[np.floating[Any]]
Function = Callable[["Rows"], Any]
Exact = Callable[["Rows"], tuple[Wide, Wide]]


class Rows(NamedTuple):
    """Logits [rows, V], labels [rows], and cotangents [rows, V]."""

    x: Any
    labels: Any
    g: Any


class Job(NamedTuple):
    """One function of such rows, with a reference that gives each value and its unit."""

    name: str
    ours: Function
    exact: Exact
    peers: dict[str, Function]


def parts(x: Wide) -> tuple[Wide, Wide, Wide]:
    """The logits below their largest, their exponentials, and the sum of those."""
    z = x - x.max(-1, keepdims=True)
    e = np.exp(z)
    return z, e, e.sum(-1, keepdims=True)


def log_total_of(z: Wide, e: Wide) -> Wide:
    """log of the sum; by log1p, as a row with one sure entry has a small one."""
    rest = e.copy()
    np.put_along_axis(rest, z.argmax(-1)[:, None], 0, -1)
    return np.log1p(rest.sum(-1, keepdims=True))


def at_least_one(value: Wide) -> Wide:
    return np.maximum(1, np.abs(value))


def softmax(r: Rows) -> tuple[Wide, Wide]:
    _, e, s = parts(r.x)
    return e / s, e / s


def softmax_gradient(r: Rows) -> tuple[Wide, Wide]:
    _, e, s = parts(r.x)
    p = e / s
    return p * (r.g - (p * r.g).sum(-1, keepdims=True)), p * (
        np.abs(r.g) + (p * np.abs(r.g)).sum(-1, keepdims=True)
    )


def log_softmax(r: Rows) -> tuple[Wide, Wide]:
    z, e, _ = parts(r.x)
    value = z - log_total_of(z, e)
    return value, at_least_one(value)


def log_softmax_gradient(r: Rows) -> tuple[Wide, Wide]:
    _, e, s = parts(r.x)
    p = e / s
    unit = np.abs(r.g) + p * np.abs(r.g).sum(-1, keepdims=True)
    return r.g - p * r.g.sum(-1, keepdims=True), unit


def logsumexp(r: Rows) -> tuple[Wide, Wide]:
    z, e, _ = parts(r.x)
    value = (r.x.max(-1, keepdims=True) + log_total_of(z, e))[:, 0]
    return value, at_least_one(value)


def logsumexp_gradient(r: Rows) -> tuple[Wide, Wide]:
    value = r.g[:, :1] * softmax(r)[0]
    return value, np.abs(value)


def entropy(r: Rows) -> tuple[Wide, Wide]:
    z, e, s = parts(r.x)
    value = (log_total_of(z, e) - (e * z).sum(-1, keepdims=True) / s)[:, 0]
    return value, at_least_one(value)


def entropy_gradient(r: Rows) -> tuple[Wide, Wide]:
    z, e, s = parts(r.x)
    weight = r.g[:, :1] * e / s
    depth = -(e * z).sum(-1, keepdims=True) / s
    return weight * (-z - depth), np.abs(weight) * (depth - z)


def cross_entropy(r: Rows) -> tuple[Wide, Wide]:
    z, e, _ = parts(r.x)
    value = (log_total_of(z, e) - np.take_along_axis(z, r.labels[:, None], -1))[:, 0]
    return value, at_least_one(value)


def cross_entropy_gradient(r: Rows) -> tuple[Wide, Wide]:
    _, e, s = parts(r.x)
    label = np.arange(r.x.shape[-1]) == r.labels[:, None]
    # p - 1 is what the others have.
    others = np.where(label, 0, e)
    value = r.g[:, :1] * np.where(label, -others.sum(-1, keepdims=True), e) / s
    return value, np.abs(value)


def threshold(x: Wide, alpha: float) -> Wide:
    """What entmax takes off (alpha - 1) (x - max), by bisection and Newton, taken off it."""
    power = 1 / (alpha - 1)
    z = (alpha - 1) * (x - x.max(-1, keepdims=True))
    short = z.astype(np.float64)
    low, high = np.full((len(x), 1), -1.0), np.zeros((len(x), 1))
    for _ in range(55):
        middle = (low + high) / 2
        too_low = (np.maximum(short - middle, 0) ** power).sum(-1, keepdims=True) > 1
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    level = low.astype(x.dtype)
    for _ in range(3):
        above = np.maximum(z - level, 0)
        slope = power * (above ** (power - 1)).sum(-1, keepdims=True, where=above > 0)
        level = level + ((above**power).sum(-1, keepdims=True) - 1) / slope
    return z - level


def entmax(above: Wide, alpha: float) -> Wide:
    """The probabilities, of what `threshold` leaves."""
    p = np.maximum(above, 0) ** (1 / (alpha - 1))
    return p / p.sum(-1, keepdims=True)


def sparse(alpha: float) -> Exact:
    def exact(r: Rows) -> tuple[Wide, Wide]:
        p = entmax(threshold(r.x, alpha), alpha)
        return p, np.broadcast_to(p.max(-1, keepdims=True), p.shape)

    return exact


def sparse_gradient(alpha: float) -> Exact:
    def exact(r: Rows) -> tuple[Wide, Wide]:
        above = threshold(r.x, alpha)
        p = entmax(above, alpha)
        slope = np.where(p > 0, p ** (2 - alpha), 0) if alpha != 2 else (p > 0).astype(r.x.dtype)
        total = slope.sum(-1, keepdims=True)
        mean = (slope * r.g).sum(-1, keepdims=True) / total
        scale = np.abs(r.g) + (slope * np.abs(r.g)).sum(-1, keepdims=True) / total
        unit = slope.max(-1, keepdims=True) * scale
        if alpha == 2:
            # The slope jumps at the edge of the support: rounding decides where an entry is on it.
            edge = np.abs(above).min(-1, keepdims=True) < EDGE[r.x.dtype]
            unit = np.where(edge, np.inf, unit)
        return slope * (r.g - mean), unit

    return exact


def hot(exact: Exact) -> Exact:
    """The same of z = (x - max x) / T."""
    return lambda r: exact(r._replace(x=(r.x - r.x.max(-1, keepdims=True)) / T))


def hot_gradient(exact: Exact) -> Exact:
    """The gradient of that to the logits."""

    def gradient(r: Rows) -> tuple[Wide, Wide]:
        value, unit = hot(exact)(r)
        return value / T, unit / T

    return gradient


def hot_logsumexp(r: Rows) -> tuple[Wide, Wide]:
    log_total, _ = hot(logsumexp)(r)
    value = r.x.max(-1) + T * log_total
    return value, at_least_one(value)


def pulled_back(function: Function) -> Function:
    """The gradient to the logits, for cotangents that have the result's shape."""

    def gradient(r: Rows) -> Any:
        value, pullback = jax.vjp(lambda x: function(r._replace(x=x)), r.x)
        return pullback(r.g if value.ndim == r.g.ndim else r.g[:, 0])[0]

    return gradient


def pulled_back_by_torch(function: Function) -> Function:
    def gradient(r: Rows) -> Any:
        x = r.x.detach().requires_grad_()
        value = function(r._replace(x=x))
        value.backward(r.g if value.ndim == r.g.ndim else r.g[:, 0])
        return x.grad

    return gradient


HOT = ("softmax", "log_softmax", "logsumexp", "cross_entropy")
"""What is measured at a temperature, too."""


def at_t(name: str) -> str:
    return f"{name}, T = {T}"


def at_temperature(function: Function, factor: float) -> Function:
    """The same of x / T, times a factor."""
    return lambda r: factor * function(r._replace(x=r.x / T))


def jobs() -> list[Job]:
    """What is measured: each function, then its gradient."""
    in_jax: dict[str, Function] = {
        "softmax": lambda r: jax.nn.softmax(r.x),
        "log_softmax": lambda r: jax.nn.log_softmax(r.x),
        "logsumexp": lambda r: jax.nn.logsumexp(r.x, -1),
        "entropy": lambda r: jax.scipy.special.entr(jax.nn.softmax(r.x)).sum(-1),
    }
    in_torch: dict[str, Function] = {}
    with suppress(ImportError):
        import optax

        in_jax["cross_entropy"] = lambda r: optax.losses.softmax_cross_entropy_with_integer_labels(
            r.x, r.labels
        )
        in_jax["sparsemax"] = lambda r: jax.vmap(optax.projections.projection_simplex)(r.x)
    with suppress(ImportError):
        import torch

        in_torch |= {
            "softmax": lambda r: torch.softmax(r.x, -1),
            "log_softmax": lambda r: torch.log_softmax(r.x, -1),
            "logsumexp": lambda r: torch.logsumexp(r.x, -1),
            "entropy": lambda r: torch.distributions.Categorical(logits=r.x).entropy(),
            "cross_entropy": lambda r: torch.nn.functional.cross_entropy(
                r.x, r.labels, reduction="none"
            ),
        }
    with suppress(ImportError):
        import entmax as peer

        in_torch["sparsemax"] = lambda r: peer.sparsemax(r.x, -1)
        in_torch["entmax, alpha 1.5"] = lambda r: peer.entmax15(r.x, -1)
        in_torch["entmax, alpha 1.3"] = lambda r: peer.entmax_bisect(r.x, 1.3, -1)

    for name, by in itertools.product(HOT, (in_jax, in_torch)):
        if name in by:
            by[at_t(name)] = at_temperature(by[name], T if name == "logsumexp" else 1)

    ours: dict[str, tuple[Function, Exact, Exact]] = {
        "softmax": (lambda r: jsoftmax.softmax(r.x), softmax, softmax_gradient),
        "log_softmax": (
            lambda r: jsoftmax.log_softmax(r.x),
            log_softmax,
            log_softmax_gradient,
        ),
        "logsumexp": (lambda r: jsoftmax.logsumexp(r.x), logsumexp, logsumexp_gradient),
        "entropy": (lambda r: jsoftmax.entropy(r.x), entropy, entropy_gradient),
        "cross_entropy": (
            lambda r: jsoftmax.cross_entropy(r.x, r.labels),
            cross_entropy,
            cross_entropy_gradient,
        ),
        "sparsemax": (lambda r: jsoftmax.sparsemax(r.x), sparse(2.0), sparse_gradient(2.0)),
        "entmax, alpha 1.5": (
            lambda r: jsoftmax.entmax(r.x, alpha=1.5),
            sparse(1.5),
            sparse_gradient(1.5),
        ),
        "entmax, alpha 1.3": (
            lambda r: jsoftmax.entmax(r.x, alpha=1.3),
            sparse(1.3),
            sparse_gradient(1.3),
        ),
    }
    ours |= {
        at_t("softmax"): (
            lambda r: jsoftmax.softmax(r.x, temperature=T),
            hot(softmax),
            hot_gradient(softmax_gradient),
        ),
        at_t("log_softmax"): (
            lambda r: jsoftmax.log_softmax(r.x, temperature=T),
            hot(log_softmax),
            hot_gradient(log_softmax_gradient),
        ),
        at_t("logsumexp"): (
            lambda r: jsoftmax.logsumexp(r.x, temperature=T),
            hot_logsumexp,
            hot(logsumexp_gradient),
        ),
        at_t("cross_entropy"): (
            lambda r: jsoftmax.cross_entropy(r.x, r.labels, temperature=T),
            hot(cross_entropy),
            hot_gradient(cross_entropy_gradient),
        ),
    }
    found = []
    for name, (function, exact, gradient) in ours.items():
        peers = {"jax": in_jax[name]} if name in in_jax else {}
        pulled = {"jax": pulled_back(in_jax[name])} if name in in_jax else {}
        if name in in_torch:
            peers["torch"] = in_torch[name]
            pulled["torch"] = pulled_back_by_torch(in_torch[name])
        found.append(Job(name, function, exact, peers))
        found.append(Job(f"{name}, gradient", pulled_back(function), gradient, pulled))
    return found


PROBABILITIES = ("softmax", at_t("softmax"))
IN_LAST_PLACES = (*PROBABILITIES, "logsumexp, gradient", f"{at_t('logsumexp')}, gradient")


def described() -> str:
    """The machine and the versions."""
    names = ["jax", "numpy"]
    for name in ("optax", "torch", "entmax"):
        with suppress(ImportError):
            version(name)
            names.append(name)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"CPU ({platform.machine()}), Python {platform.python_version()}, {versions}."


def inputs(dtype: Any, *, quick: bool, seed: int = 0) -> Iterator[Rows]:
    """Rows of every length, scale and kind that the dtype holds; other ones for another seed."""
    largest = float(jnp.finfo(dtype).max)
    for length, scale, kind in itertools.product(LENGTHS, SCALES, KINDS):
        long = length > ENTRIES
        if 60 + scale * 10 > largest or (long and scale not in SCALES_OF_LONG_ROWS):
            continue
        if quick and (length > 1000 or scale not in SCALES_OF_LONG_ROWS):
            continue
        random = np.random.default_rng([length, KINDS.index(kind), SCALES.index(scale), seed])
        rows = int(np.clip(ENTRIES // length, 1, 200))
        x = random.normal(size=(rows, length)) * scale
        if kind == "peaked":
            # From barely ahead of all others together to as good as certain.
            height = random.uniform(0, 40, rows)
            x[np.arange(rows), random.integers(0, length, rows)] += np.log(length) + height
        elif kind == "quantised":
            x = np.round(x / scale * 4) / 4 * scale
        labels = random.integers(0, length, rows)
        labels[::2] = x[::2].argmax(-1)
        g = random.normal(size=x.shape)
        yield Rows(x.astype(dtype), labels, g.astype(dtype))


def errors(job: Job, got: Wide, want: Wide, unit: Wide, dtype: Any) -> Wide:
    """In units. XLA flushes numbers that are too small to be normal, which is no error."""
    info = jnp.finfo(dtype)
    tiny, eps = (want.dtype.type(float(x)) for x in (info.tiny, info.eps))
    if job.name in IN_LAST_PLACES:
        unit = 2 ** np.floor(np.log2(np.maximum(np.abs(want), tiny)))
    with np.errstate(invalid="ignore"):
        apart = np.abs(got - want)
    found = np.where(np.isfinite(got), apart / (np.maximum(unit, tiny) * eps), np.inf)
    # float16 is computed in float32, whose range is longer. All but softmax sum terms like p log p.
    lost = 0 if dtype == np.float16 else (2 if job.name in PROBABILITIES else 1000) * tiny
    return np.where((apart < lost) | (np.abs(want) > float(info.max)), 0, found).ravel()


def to_torch(array: NDArray[Any]) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def call(by: str, function: Function, rows: Rows) -> Wide:
    """What a function of that library gives, widened."""
    if by == "torch":
        got = function(Rows(*map(to_torch, rows))).detach().double().numpy()
    else:
        got = np.asarray(function(rows))
    return got.astype(np.longdouble if rows.x.dtype == np.float64 else np.float64)


class Tally:
    """The errors of one function, by one library, in one dtype."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.hundredths = np.zeros(10_001, np.int64)
        """How many errors there are in each hundredth, the last for 100 and more."""

    def add(self, found: Wide) -> None:
        self.largest = max(self.largest, float(found.max()))
        places = np.floor(np.minimum(found, 100) * 100).astype(int)
        self.hundredths += np.bincount(places, minlength=10_001)

    def usual(self) -> float:
        """What one error in a thousand exceeds."""
        below = self.hundredths.cumsum()
        return float(np.searchsorted(below, 0.999 * below[-1]) + 1) / 100


Found: TypeAlias = dict[tuple[str, str, str], Tally]
"""By function, dtype and library."""


def measure(dtype_name: str, functions: list[str] | None, *, quick: bool, seed: int) -> Found:
    """Each function on each input, by us and by each peer. A peer may refuse a dtype: no result."""
    found: Found = {}
    dtype = jnp.dtype(dtype_name)
    wide = np.longdouble if dtype == np.float64 else np.float64
    if wide is np.longdouble and np.finfo(wide).eps > 1e-18:
        print("float64 is left out: this machine has no wider float")
        return found
    todo = [
        (job, by, function if by == "torch" else jax.jit(function))
        for job in jobs()
        if functions is None or job.name in functions
        for by, function in {"jsoftmax": job.ours, **job.peers}.items()
    ]
    for rows in inputs(dtype, quick=quick, seed=seed):
        widened = rows._replace(x=rows.x.astype(wide), g=rows.g.astype(wide))
        for job, ways in itertools.groupby(todo, key=operator.itemgetter(0)):
            want, unit = job.exact(widened)
            for _, by, function in ways:
                with nullcontext() if by == "jsoftmax" else suppress(TypeError, RuntimeError):
                    got = call(by, function, rows)
                    tally = found.setdefault((job.name, dtype_name, by), Tally())
                    tally.add(errors(job, got, want, unit, dtype))
    return found


def number(value: float) -> str:
    if not np.isfinite(value):
        return "not finite"
    if value < 100:
        return f"{value:.2f}"
    return f"{value:.0f}" if value < 10_000 else f"{value:.0e}"


def summary(tally: Tally) -> str:
    """The largest error, and that which one in a thousand exceeds."""
    usual = tally.usual()
    return f"{number(tally.largest)}, {number(usual) if usual < 100 else '100 or more'}"


def table(found: Found) -> str:
    """A row for each function and dtype."""
    names = {"jsoftmax": "jsoftmax", "jax": "jax, optax", "torch": "PyTorch, entmax"}
    shown = [by for by in names if by in {by for _, _, by in found}]
    lines = [
        "| function | dtype | " + " | ".join(names[by] for by in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    dtypes = dict.fromkeys(dtype for _, dtype, _ in found)
    for job, dtype in itertools.product(jobs(), dtypes):
        if (job.name, dtype, "jsoftmax") not in found:
            continue
        cells = [f"`{job.name}`", dtype]
        for by in shown:
            tally = found.get((job.name, dtype, by))
            if tally is None:
                cells.append("refused" if by in job.peers else "")
            else:
                cells.append(summary(tally))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def merged(table: str, some: str) -> str:
    """A table in which some functions and dtypes were measured again, on the same versions."""

    def cells(line: str) -> tuple[str, ...]:
        return tuple(cell.strip() for cell in line.split("|")[1:3])

    anew = {cells(line): line for line in some.splitlines() if line.startswith("| `")}
    old = table.splitlines()
    if old[:3] != some.splitlines()[:3] or not anew.keys() <= set(map(cells, old)):
        raise SystemExit("The table is of other versions or functions: measure all of them.")
    return "\n".join(anew.get(cells(line), line) for line in old) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rounding errors beside the peers'.")
    parser.add_argument("--quick", action="store_true", help="short rows and five scales")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--functions", nargs="+", choices=[job.name for job in jobs()])
    parser.add_argument("--seed", type=int, default=0, help="other rows than those of the table")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="where the table goes"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    found: Found = {}
    for dtype in arguments.dtypes:
        start = time.perf_counter()
        with jax.enable_x64(dtype == "float64"):
            found |= measure(dtype, arguments.functions, quick=arguments.quick, seed=arguments.seed)
        print(f"{dtype}: {time.perf_counter() - start:.0f} s", flush=True)
    text = f"{described()}\n\n{table(found)}"
    print(f"\n{text}")
    if arguments.seed:
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    # What is quick is not put in the place of the whole.
    path = arguments.out / f"numerics-jax-{jax.__version__}{'-quick' * arguments.quick}.md"
    in_part = arguments.functions or len(arguments.dtypes) < len(DTYPES)
    if in_part and path.exists():
        text = merged(path.read_text(encoding="utf-8"), text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
