"""What every function costs on TPUs and a CUDA GPU, by the programs compiled for them.

    uv run --group tpu --group cuda --group examples benchmarks/hardware.py
    ... benchmarks/hardware.py --targets H100 "TPU v5e" --functions sample top_p_mask
    ... benchmarks/hardware.py --targets  # none: writes the page again from what is known

For each function and target: whether it compiles, the bytes that cross devices, the bytes that go
through the main memory in a call, in arrays of logits, and the most temporary memory. Rounds of
loops are counted on this machine's CPU, on a language model's logits and on hostile rows. Compiled,
not run: nothing here is a time.

What was compiled is kept in benchmarks/results/hardware.json, and a run with a choice of targets or
functions replaces those only. About an hour for everything on one core, a minute for one function.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

import inputs
import loops
from tests import rows
from tests.aot.cases import BATCH, CASES, SHARDS, VOCABULARY, Case, compile_case, program
from tests.aot.program import Loop, Program
from tests.aot.targets import TARGETS, Target, by_name, versions

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "hardware.md"
RESULTS = ROOT / "benchmarks" / "results" / "hardware.json"
START = "<!-- tables: begin (made by benchmarks/hardware.py) -->"
END = "<!-- tables: end -->"
DTYPES = ("float32", "bfloat16")
BEYOND = 512
"""Rows of logits that no on-chip memory holds."""
SERVED = {
    "temperature": 0.8,
    "top_k": 50.0,
    "k": 50.0,
    "top_p": 0.95,
    "p": 0.95,
    "min_p": 0.02,
    "mass": 0.95,
    "epsilon": 3e-4,
    "n": 1.0,
}
"""What a server is asked for."""
HOSTILE = {
    "temperature": (0.01, 1.0, 100.0),
    "top_k": (100.0, 1e4, 49151.0),
    "k": (100.0, 1e4, 49151.0),
    "top_p": (1e-6, 0.5, 1 - 1e-6),
    "p": (1e-6, 0.5, 1 - 1e-6),
    "mass": (1e-6, 0.5, 1 - 1e-6),
}

# What the page says above its tables.
COMPILES = "Programs that compile, of those tried; below, an empty cell was not tried."
CROSSING = (
    f"Collectives of the float32 program for {SHARDS} devices along the vocabulary, and the most"
    " bytes that one of them moves; those in loops happen in each round. All are {kinds}."
    f" A device holds {BATCH * VOCABULARY * 4 // SHARDS} bytes of logits."
)
ROUNDS = (
    "Rounds that each loop makes in a batch of 64 rows: of a language model's logits (SmolLM2, with"
    " temperature 0.8, top-k 50, top-p and mass 0.95, min-p 0.02), and of rows that are hard for a"
    " search (`tests/rows.py`, with extreme settings). These are the most that was seen, not a"
    " bound that was proven."
)
TRAFFIC = (
    "Bytes read and written in a call on one device, in arrays of logits: with the rounds that real"
    " logits take and, after a comma, with those of hostile rows, where that differs. The last"
    f" column is for {BEYOND} rows, which do not fit in the on-chip memory."
)
TEMPORARY = "The most that is held beside the arguments and the result, in arrays of logits."


def settings(case: Case, rows: int, *, hostile: bool) -> dict[str, np.ndarray]:
    """A number per row for each setting."""
    numbers = {}
    for i, name in enumerate(case.settings):
        values = np.atleast_1d(SERVED.get(name, case.entry.settings[name][0]))
        if hostile:
            values = np.array(HOSTILE.get(name, case.entry.settings[name]))
        # Every combination of two settings' values is met.
        numbers[name] = np.float32(values[np.arange(rows) // 3 ** (i % 2) % len(values)])
    return numbers


def rounds(case: Case, logits: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Rounds of each loop in a call, by the kind of logits."""
    counts = {}
    for kind, x in logits.items():
        arguments = (jnp.asarray(x), jnp.asarray(x > 0), jax.random.key(1))
        numbers = settings(case, len(x), hostile=kind == "hostile")
        counts[kind] = loops.rounds(case.call, *arguments, numbers, platform="tpu")
    return counts


def times(around: Sequence[Loop], counts: Sequence[int]) -> float:
    """How often what stands in these loops is done in a call."""
    often = 1.0
    for loop in around:
        which = loops.number(loop.op_name)
        if which is not None:
            often = counts[which]  # In all: what is around it is in the count.
        elif loop.trips is not None:
            often *= loop.trips
        else:
            raise ValueError(f"rounds of a loop that XLA made are not known: {loop}")
    return often


def compile_named(case: Case, target: Target, **how: Any) -> jax.stages.Compiled:
    """As `compile_case`, with the loops of a program for one device named."""
    return compile_case(
        case,
        target,
        rewrite=lambda f, *x: loops.named(f, *x, platform=target.platform),
        **how,
    )


def traffic(found: Program, counts: Sequence[int]) -> float:
    """Bytes through the main memory in a call in which the loops make so many rounds."""
    return sum(size * times(around, counts) for around, size in found.traffic.items())


def measure(case: Case, target: Target, dtype: str, counts: Mapping[str, list[int]]) -> Any:
    """All that the table says of a function on a target."""
    record: dict[str, Any] = {}
    array = jnp.dtype(dtype).itemsize * BATCH * VOCABULARY
    shapes = {"dense": (1, BATCH), "sharded": (SHARDS, BATCH)}
    if target.name == "TPU v5e":
        shapes["beyond"] = (1, BEYOND)
    for kind, (shards, batch) in shapes.items():
        try:
            compiled = compile_named(
                case, target, shards=shards, batch=batch, dtype=jnp.dtype(dtype)
            )
        except jax.errors.JaxRuntimeError as error:
            record[kind] = {"error": str(error).splitlines()[0]}
            continue
        found = program(compiled, target)
        whole = array * batch // BATCH // shards
        record[kind] = {
            "temporary": round(compiled.memory_analysis().temp_size_in_bytes / whole, 3),
            "collectives": sorted(
                [collective.opcode, collective.size, bool(collective.loops)]
                for collective in found.collectives
            ),
        }
        if shards == 1:
            outside = [0] * len(counts["real"])
            record[kind]["traffic"] = {
                name: round(traffic(found, n) / whole, 3)
                for name, n in {**counts, "outside": outside}.items()
            }
    return record


def table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    cells = [list(headers), ["---"] * len(headers), *map(list, lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def cell(record: Any, kind: str, *path: str, digits: int = 1) -> str:
    """A number of the results, as the table shows it."""
    value: Any = (record or {}).get(kind)
    if value is None:
        return ""
    if "error" in value:
        return "does not compile"
    for name in path:
        value = value[name]
    return f"{value:.{digits}f}"


def page(results: Mapping[str, Any]) -> str:
    """The tables."""
    cases, targets = [str(case) for case in CASES], [str(target) for target in TARGETS]
    records, counted = results["records"], results["rounds"]

    def of(case: str, target: str, dtype: str = "float32") -> Any:
        return records.get(dtype, {}).get(target, {}).get(case)

    def compiles(target: str, dtype: str, kind: str) -> str:
        tried = [of(case, target, dtype) for case in cases]
        done = [record for record in tried if record is not None]
        good = sum("error" not in record[kind] for record in done)
        return f"{good} of {len(done)}"

    lines = [
        [target, *(compiles(target, d, kind) for d in DTYPES for kind in ("dense", "sharded"))]
        for target in targets
    ]
    headers = ["", *(f"{d}, {kind}" for d in DTYPES for kind in ("one device", "4 devices"))]
    parts = ["## What compiles", COMPILES, table(headers, lines)]

    def crossing(case: str, target: str) -> str:
        record = (of(case, target) or {}).get("sharded")
        if record is None or "error" in record:
            return ""
        sizes = [size for _, size, _ in record["collectives"]]
        looped = sum(in_loop for *_, in_loop in record["collectives"])
        inside = f" ({looped} in loops)" if looped else ""
        return f"{len(sizes)}{inside}; {max(sizes)} B" if sizes else "none"

    kinds = {
        opcode
        for by_target in records.get("float32", {}).values()
        for record in by_target.values()
        for opcode, *_ in record["sharded"].get("collectives", ())
    }
    parts += [
        "## What crosses devices",
        CROSSING.format(kinds=", ".join(sorted(kinds))),
        table(["function", *targets], [[c, *(crossing(c, t) for t in targets)] for c in cases]),
        "## Rounds of loops",
        ROUNDS,
        table(
            ["function", "real logits", "hostile rows"],
            [
                [case, *(", ".join(map(str, counted[case][kind])) for kind in ("real", "hostile"))]
                for case in cases
                if counted.get(case, {}).get("real")
            ],
        ),
    ]
    for dtype in DTYPES:
        if not records.get(dtype):
            continue
        lines = []
        for case in cases:
            line = [case]
            for target in targets:
                record = of(case, target, dtype)
                real = cell(record, "dense", "traffic", "real")
                hostile = cell(record, "dense", "traffic", "hostile")
                line.append(real if real == hostile else f"{real}, {hostile}")
            beyond = of(case, "TPU v5e", dtype)
            real = cell(beyond, "beyond", "traffic", "real")
            hostile = cell(beyond, "beyond", "traffic", "hostile")
            lines.append([*line, real if real == hostile else f"{real}, {hostile}"])
        parts += [
            f"## Through the main memory, {dtype}",
            TRAFFIC,
            table(["function", *targets, f"TPU v5e, {BEYOND} rows"], lines),
            f"## Temporary memory, {dtype}",
            TEMPORARY,
            table(
                ["function", *targets, f"TPU v5e, {BEYOND} rows"],
                [
                    [
                        case,
                        *(
                            cell(of(case, t, dtype), "dense", "temporary", digits=2)
                            for t in targets
                        ),
                        cell(of(case, "TPU v5e", dtype), "beyond", "temporary", digits=2),
                    ]
                    for case in cases
                ],
            ),
        ]
    about = f"{results['versions']}; [{BATCH}, {VOCABULARY}]. Written by `benchmarks/hardware.py`."
    return "\n\n".join([about, *parts])


def write_page(results: Mapping[str, Any]) -> None:
    """Put the tables into the documentation."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n\n{page(results)}\n\n{END}{after}", encoding="utf-8")


def logits() -> dict[str, np.ndarray]:
    """Real rows, and rows that are hard for a search."""
    real = inputs.smollm2()
    _, hostile = rows.stacked(real.shape[1])
    return {"real": real, "hostile": np.tile(hostile, (math.ceil(64 / len(hostile)), 1))[:64]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", default=[str(target) for target in TARGETS])
    names = sorted({case.entry.name for case in CASES})
    parser.add_argument("--functions", nargs="+", choices=names, help="all by default")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    chosen = parser.parse_args()
    cases = [c for c in CASES if chosen.functions is None or c.entry.name in chosen.functions]
    results = {"versions": "", "rounds": {}, "records": {}}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results["versions"] = versions()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_page(results)

    on = logits() if chosen.targets else {}
    for case in cases if chosen.targets else ():
        results["rounds"][str(case)] = rounds(case, on)
        print(case, results["rounds"][str(case)], flush=True)
    for dtype in chosen.dtypes:
        for target in map(by_name, chosen.targets):
            done = results["records"].setdefault(dtype, {}).setdefault(str(target), {})
            for case in cases:
                record = measure(case, target, dtype, results["rounds"][str(case)])
                done[str(case)] = record
                save()
                print(dtype, target, case, json.dumps(record), flush=True)
    save()


if __name__ == "__main__":
    main()
