"""Times every job beside its peers and a softmax, in one process, and writes the tables.

    uv run --group benchmark benchmarks/run.py [--quick] [--cores 1] [--out benchmarks/results]

Calls are interleaved and medians taken; a figure is a ratio of two medians of the same run. The
process is pinned to so many cores, and its allocator is told to keep memory: else each large output
is mapped anew at every call, and a softmax takes twice as long or not, by chance.
"""

import argparse
import csv
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

KEEP_MEMORY = {
    # The arena of a thread holds 64 MB at most: what is larger would be mapped anew at each call.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


class Timing(NamedTuple):
    """One job on one input: seconds."""

    job: str
    input: str
    ours: float
    softmax: float
    peers: dict[str, float]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmark of jsoftmax against its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer inputs and calls: a minute")
    parser.add_argument("--cores", type=core_count, default=1, help="to run on (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="where the files go"
    )
    return parser.parse_args()


def core_count(text: str) -> int:
    """A number of cores that this process has."""
    pinned = hasattr(os, "sched_getaffinity")
    count, most = int(text), len(os.sched_getaffinity(0)) if pinned else os.cpu_count() or 1
    if not 1 <= count <= most:
        raise argparse.ArgumentTypeError(f"must be from 1 to {most}, got {count}")
    return count


def restart_pinned(cores: int) -> None:
    """Starts this program again on so many cores, with an allocator that keeps its memory."""
    if all(os.environ.get(name) == value for name, value in KEEP_MEMORY.items()):
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})


def interleave(
    calls: dict[str, Callable[[], object]], seconds: float, least: int = 3
) -> dict[str, list[float]]:
    """The times of each call. Slow ones are made less often, but at least so many times."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    share = seconds / len(calls)
    while any(
        len(times[name]) < least or (spent[name] < share and len(times[name]) < 200)
        for name in calls
    ):
        # In a new order each time: what ran before decides what lies in the cache.
        order = list(calls.items())
        random.shuffle(order)
        for name, call in order:
            if len(times[name]) >= least and spent[name] >= share:
                continue
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            times[name].append(elapsed)
            spent[name] += elapsed
    return times


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median time of each call, as `interleave` makes them."""
    return {name: statistics.median(times) for name, times in interleave(calls, seconds).items()}


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def measure(*, quick: bool) -> list[Timing]:
    import jax
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    import inputs
    import jobs
    import peers

    random.seed(0)
    timings = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("reading the model", total=None)
        made = inputs.make(quick=quick)
        for name, logits in made.items():
            x = jax.numpy.asarray(logits)
            installed = peers.installed(len(logits))
            todo = jobs.make(*logits.shape)
            progress.update(task, total=len(made) * len(todo))
            for label, job in todo.items():
                progress.update(task, description=f"{label}: {name}")

                def compiled(function: jobs.Function, x: jax.Array = x) -> Callable[[], object]:
                    jitted = function if isinstance(function, partial) else jax.jit(function)
                    return lambda: jax.block_until_ready(jitted(x))

                of_peers = {peer: compiled(function) for peer, function in job.peers.items()}
                others = installed.get(label, {})
                of_peers |= {peer: prepare(logits) for peer, prepare in others.items()}
                calls = {"ours": compiled(job.ours), "softmax": compiled(jax.nn.softmax)}
                if of_peers.keys() & calls:
                    raise ValueError(f"{label}: a peer is named as what all are compared with")
                times = medians(calls | of_peers, 0.4 if quick else 2.0)
                ours, softmax = times.pop("ours"), times.pop("softmax")
                timings.append(Timing(label, name, ours, softmax, times))
                progress.advance(task)
    return timings


def write_csv(path: Path, timings: list[Timing], about: str) -> None:
    with path.open("w", newline="") as file:
        file.write(f"# {about}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["job", "input", "softmaxes", "peer", "times faster than the peer", "ms"])
        for t in timings:
            for peer, seconds in t.peers.items():
                row = [f"{t.ours / t.softmax:.2f}", peer, f"{seconds / t.ours:.2f}"]
                writer.writerow([t.job, t.input, *row, f"{1000 * t.ours:.3f}"])


def passes() -> dict[str, str]:
    """Passes through the logits on a TPU v5e, by job: of real ones, more than on-chip memory holds.

    In the compiled program, as hardware.py counted them.
    """
    import jobs

    known = Path(__file__).parent / "results" / "hardware.json"
    if not known.exists():
        return {}
    records = json.loads(known.read_text())["records"]["float32"]["TPU v5e"]
    return {
        job: f"{records[label]['beyond']['traffic']['real']:.1f}"
        for job, label in jobs.COUNTED.items()
        if label in records
    }


def summary(timings: list[Timing]) -> list[list[str]]:
    """A row a job and peer: geometric means over the inputs, and over the real ones."""
    rows, counts = [], passes()
    for job in dict.fromkeys(t.job for t in timings):
        mine = [t for t in timings if t.job == job]
        real = [t for t in mine if "real" in t.input and "bfloat16" not in t.input]
        for peer in dict.fromkeys(peer for t in mine for peer in t.peers):

            def faster(some: list[Timing], peer: str = peer) -> str:
                return f"{geometric_mean(t.peers[peer] / t.ours for t in some):.2f}"

            def softmaxes(some: list[Timing]) -> str:
                return f"{geometric_mean(t.ours / t.softmax for t in some):.2f}"

            worst = f"{max(t.ours / t.softmax for t in mine):.2f}"
            least = f"{min(t.peers[peer] / t.ours for t in mine):.2f}"
            rows.append(
                [
                    job,
                    peer,
                    faster(real),
                    faster(mine),
                    least,
                    softmaxes(real),
                    softmaxes(mine),
                    worst,
                    counts.get(job, ""),
                ]
            )
    return rows


HEADERS = [
    "job",
    "peer",
    "times faster: real",
    "all",
    "least",
    "softmaxes: real",
    "all",
    "most",
    "passes, TPU",
]


class Table(NamedTuple):
    """What is shown and written."""

    title: str
    headers: list[str]
    rows: list[list[str]]


def write_markdown(path: Path, tables: list[Table]) -> None:
    lines = []
    for table in tables:
        lines += [table.title, "", "| " + " | ".join(table.headers) + " |"]
        lines += ["|---" * len(table.headers) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows] + [""]
    path.write_text("\n".join(lines[:-1]) + "\n")


def draw(path: Path, timings: list[Timing], about: str) -> None:
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(t.job for t in timings))
    kinds = list(dict.fromkeys(t.input for t in timings))
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(names) + 1.8), layout="constrained")
    for i, kind in enumerate(kinds):
        some = [t for t in timings if t.input == kind]
        height = [names.index(t.job) + 0.1 * (i - len(kinds) / 2) for t in some]
        axes.plot([t.ours / t.softmax for t in some], height, "o", label=kind, markersize=5)
        slowest = [max(t.peers.values(), default=t.ours) / t.softmax for t in some]
        axes.plot(slowest, height, "|", color=axes.lines[-1].get_color(), markersize=9)
    axes.set(xscale="log", xlabel="time, in softmaxes (jax.nn.softmax of the same logits)")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.grid(axis="x", color="0.9")
    axes.legend(fontsize=8, title="dot: jsoftmax; bar: its slowest peer", title_fontsize=8)
    figure.suptitle(about, fontsize=8)
    figure.savefig(path, dpi=130)


def show(tables: list[Table]) -> None:
    import rich.console
    import rich.table

    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        shown = rich.table.Table(title=table.title)
        for i, header in enumerate(table.headers):
            shown.add_column(header, justify="left" if i == 0 or header == "peer" else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def main() -> None:
    arguments = parse()
    restart_pinned(arguments.cores)
    import jax

    import growth
    import peers

    cores = f"{arguments.cores} core" + "s" * (arguments.cores > 1)
    command = "benchmarks/run.py" + " --quick" * arguments.quick
    command += f" --cores {arguments.cores}" * (arguments.cores > 1)
    about = (
        f"{processor()}, {cores}; Python {platform.python_version()}, jax {jax.__version__}"
        f"{peers.versions()}; {command}"
    )

    timings = measure(quick=arguments.quick)
    tables = [Table(about, HEADERS, summary(timings))]
    if not arguments.quick:
        grown = growth.growth(medians, 1.0)
        tables.append(Table(f"Rows: {growth.ROWS}, N(0, 9). {about}", growth.HEADERS, grown))
        short = growth.short_rows(medians, 0.3)
        entries = f"Entries: {growth.ENTRIES}, N(0, 1). {about}"
        tables.append(Table(entries, growth.SHORT_HEADERS, short))
        seconds = growth.compile_times()
        ratio = f"{seconds['sample'] / seconds['bisection']:.2f}"
        times = [f"{seconds[name]:.2f}" for name in ("sample", "bisection")]
        headers = ["traced and compiled", "sample, s", "bisection, s", "ratio"]
        tables.append(Table(about, headers, [["top-k, top-p, min-p", *times, ratio]]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"jax-{jax.__version__}" + f"-{arguments.cores}-cores" * (arguments.cores > 1)
    # Not in the place of the whole.
    name += "-quick" * arguments.quick
    write_csv(arguments.out / f"{name}.csv", timings, about)
    write_markdown(arguments.out / f"{name}.md", tables)
    draw(arguments.out / f"{name}.png", timings, about)
    show(tables)


if __name__ == "__main__":
    main()
