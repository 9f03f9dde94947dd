"""The long mode: every property of every function over seeded batches, until enough rows are met.

    python -m tests.fuzz.long --rows 10000000 --report tests/fuzz/report.md
    python -m tests.fuzz.long --again FUNCTION PROPERTY SEED ROWS LENGTH DTYPE

The second runs one batch again, as a violation names it. A row is counted once for each function
and property that has something to say about it.
"""

import argparse
import datetime
import gc
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import astuple
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.fuzz.entries import EVERY
from tests.fuzz.every import PROPERTIES
from tests.fuzz.properties import Count, Property, check, examine, properties_of
from tests.fuzz.strategies import CLASSES, at_random
from tests.registry import Entry
from tests.revision import revision, versions

SHAPES = {1: (2048, 0.1), 7: (4096, 0.5), 130: (1024, 0.35), 2051: (64, 0.02)}
"""For each length of a row, the rows of a batch and its share of all rows.

The last is one of those that are summed and searched in blocks.
"""
OWN = {1: (256, 0.02), 7: (2048, 0.58), 130: (512, 0.35), 2051: (64, 0.02)}
"""Where a property has programs of its own."""
SPLIT = {7: (1024, 0.87), 2051: (64, 0.1)}
"""Where these are for meshes, of three kinds."""
DOUBLE = {130: (256, 0.03)}
"""In float64."""
LEAST = 10_000
"""Rows for the properties that are slow, and the least for any."""
SLOW = {"as_the_reference_says", "sharded_equals_dense", "jit_equals_eager", "op_by_op_alike"}
PATIENCE = 6
"""How many times the batches that were to be expected, before a cell is left with fewer rows."""

Cells = dict[tuple[str, str, str], Count]
"""By function, property, and the length of the rows."""


def strict() -> None:
    """The same world as in the tests: before the first array."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


def cells_of(entries: Iterable[Entry]) -> list[tuple[Entry, Property]]:
    return [(entry, prop) for entry in entries for prop in properties_of(entry, PROPERTIES)]


def quotas(rows: int) -> dict[str, int]:
    """Rows for each property of a function: the quick ones share what the slow ones leave."""
    cells = cells_of(EVERY)
    slow = sum(prop.name in SLOW for _, prop in cells)
    each = max(math.ceil((rows - slow * LEAST) / max(len(cells) - slow, 1)), LEAST)
    return {prop.name: LEAST if prop.name in SLOW else each for prop in PROPERTIES}


def of_length(length: int, dtype: type[np.floating[Any]] = np.float32) -> str:
    """How rows of a length are named."""
    return str(length) if dtype == np.float32 else f"{length}, {dtype.__name__}"


LENGTHS = (*map(of_length, SHAPES), *(of_length(length, np.float64) for length in DOUBLE))


def run(
    entry: Entry, prop: Property, quota: int, first_seed: int
) -> tuple[dict[str, Count], list[str]]:
    """Batches of every shape until the quota is met: the rows of each length."""
    counts, told = {}, []
    seed = first_seed
    shapes = SPLIT if prop.name == "sharded_equals_dense" else SHAPES if prop.light else OWN
    for dtype, some in ((np.float32, shapes), (np.float64, DOUBLE)):
        for length, (n, share) in some.items():
            count, patience = Count(), 1 + PATIENCE * math.ceil(share * quota / n)
            while count.checked < share * quota and patience:
                with jax.enable_x64(dtype == np.float64):
                    found, message = examine(entry, prop, at_random(seed, n, length, dtype))
                count += found
                if message and len(told) < 3:
                    told.append(message)
                seed, patience = seed + 1, patience - 1
            counts[of_length(length, dtype)] = count
    return counts, told


def run_function(name: str, quota: dict[str, int], seed: int) -> tuple[Cells, list[str]]:
    """All properties of one function. Then its programs are forgotten."""
    (entry,) = (entry for entry in EVERY if entry.name == name)
    results: Cells = {}
    violations: list[str] = []
    for i, prop in enumerate(properties_of(entry, PROPERTIES)):
        # Other rows for each.
        counts, told = run(entry, prop, quota[prop.name], seed + 20_000 * i)
        results |= {(name, prop.name, length): count for length, count in counts.items()}
        violations += told
    jax.clear_caches()
    gc.collect()
    return results, violations


def as_json(cells: Cells) -> list[list[Any]]:
    return [[*cell, *astuple(count)] for cell, count in cells.items()]


def from_json(cells: list[list[Any]]) -> Cells:
    return {(function, prop, length): Count(*count) for function, prop, length, *count in cells}


def run_all(rows: int, seed: int, processes: int, state: Path | None) -> tuple[Cells, list[str]]:
    """Every cell, the functions shared out among processes. Those found in `state` are done."""
    quota = quotas(rows)
    start = time.perf_counter()
    results: dict[str, Cells] = {}
    violations: list[str] = []
    if state:
        state.mkdir(parents=True, exist_ok=True)
        if not (begun := state / "begun.txt").exists():
            begun.write_text(str(time.time()))
        results = {
            path.stem: from_json(json.loads(path.read_text())) for path in state.glob("*.json")
        }
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=strict) as pool:
        futures = {
            pool.submit(run_function, entry.name, quota, seed + 1_000_000 * i): entry.name
            for i, entry in enumerate(EVERY)
            if entry.name not in results
        }
        for future in as_completed(futures):
            found, told = future.result()
            results[futures[future]] = found
            violations += told
            if state:
                (state / f"{futures[future]}.json").write_text(json.dumps(as_json(found)))
            done = sum(count.checked for cells in results.values() for count in cells.values())
            minutes = (time.perf_counter() - start) / 60
            print(f"{minutes:6.1f} min  {done:12,d} rows  {futures[future]}", flush=True)
            for message in told:
                print(message, flush=True)
    return {cell: n for entry in EVERY for cell, n in results[entry.name].items()}, violations


def pairs(results: Cells) -> dict[tuple[str, str], dict[str, Count]]:
    """For each function and property the counts by length."""
    found: dict[tuple[str, str], dict[str, Count]] = {}
    for (function, prop, length), count in results.items():
        found.setdefault((function, prop), {})[length] = count
    return found


def table(results: Cells, place: int, heading: str) -> list[str]:
    """Totals by function (0), by property (1) or by length (2)."""
    totals: dict[str, Count] = {}
    met: dict[str, set[tuple[str, str]]] = {}
    for cell, count in results.items():
        totals[cell[place]] = totals.get(cell[place], Count()) + count
        met.setdefault(cell[place], set()).add(cell[:2])
    lines = [
        f"| {heading} | cells | rows | violations | decided by rounding |",
        "|---|---:|---:|---:|---:|",
    ]
    return lines + [
        f"| `{name}` | {len(met[name])} | {total.checked:,} | {total.wrong} | {total.rounding} |"
        for name, total in totals.items()
    ]


def every_cell(results: Cells) -> list[str]:
    """Rows by length, and what became of them."""
    lines = [
        f"| function | property | {' | '.join(LENGTHS)} | violations | decided by rounding |",
        "|---|---|" + "---:|" * (len(LENGTHS) + 2),
    ]
    for (function, prop), counts in pairs(results).items():
        rows = " | ".join(f"{counts.get(length, Count()).checked:,}" for length in LENGTHS)
        total = sum(counts.values(), Count())
        lines.append(f"| `{function}` | `{prop}` | {rows} | {total.wrong} | {total.rounding} |")
    return lines


def write(results: Cells, violations: list[str], given: argparse.Namespace, minutes: float) -> str:
    """The report, as Markdown."""
    total = sum(results.values(), Count())
    cells = {cell: sum(counts.values(), Count()) for cell, counts in pairs(results).items()}
    fewest = min(cells, key=lambda cell: cells[cell].checked)
    lines = [
        "# Report of the long fuzzing run",
        "",
        "Written by `tests/fuzz/long.py`; not edited by hand. A row counts once for each function",
        "and property that says something about it, and each such pair has rows of its own.",
        "Decided by rounding: a mask differs, but only in entries of which the reference says that",
        "float32 rounding decides.",
        "",
        f"- {total.checked:,} rows checked, **{total.wrong} violations**",
        f"- {total.rounding} rows decided by rounding",
        f"- {len(EVERY)} functions, {len(PROPERTIES)} properties, {len(cells)} cells",
        f"- the least in a cell: {cells[fewest].checked:,} (`{fewest[0]}`, `{fewest[1]}`)",
        f"- rows of {', '.join(map(str, SHAPES))} entries, of {len(CLASSES)} classes, float32; of",
        f"  {', '.join(map(str, DOUBLE))} in float64; for one property bfloat16 and float16",
        f"- `python -m tests.fuzz.long --rows {given.rows} --seed {given.seed}`",
        f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {minutes:.1f} minutes after",
        f"  the run began, with its pauses; {given.processes} processes on {os.cpu_count()} cores",
        f"  ({platform.machine()})",
        f"- commit {revision()}",
        f"- {versions()}; programs fully optimised, eight devices",
        "",
        "## By property",
        "",
        *table(results, 1, "property"),
        "",
        "## By function",
        "",
        *table(results, 0, "function"),
        "",
        "## By length",
        "",
        *table(results, 2, "entries"),
        "",
        "## Every cell",
        "",
        "Rows of each length.",
        "",
        *every_cell(results),
        "",
    ]
    for message in violations:
        lines += ["```", message, "```", ""]
    return "\n".join(lines)


def again(function: str, name: str, seed: str, n: str, length: str, dtype: str) -> None:
    """One batch, which raises for its first row that breaks the property."""
    (entry,) = (entry for entry in EVERY if entry.name == function)
    (prop,) = (prop for prop in PROPERTIES if prop.name == name)
    with jax.enable_x64(dtype == "float64"):
        print(check(entry, prop, at_random(int(seed), int(n), int(length), np.dtype(dtype))))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--state", type=Path, help="a folder to go on from after an interruption")
    parser.add_argument("--again", nargs=6)
    given = parser.parse_args()
    for name in ("rows", "processes"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    strict()
    if given.again:
        again(*given.again)
        return 0
    start = time.time()
    results, violations = run_all(given.rows, given.seed, given.processes, given.state)
    begun = given.state / "begun.txt" if given.state else None
    start = float(begun.read_text()) if begun else start
    text = write(results, violations, given, (time.time() - start) / 60)
    if given.report:
        given.report.write_text(text)
    total = sum(results.values(), Count())
    print(f"{total.checked:,} rows, {total.wrong} violations")
    return 1 if total.wrong or total.checked < given.rows else 0


if __name__ == "__main__":
    sys.exit(main())
