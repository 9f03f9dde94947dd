"""The long run: `python -m tests.draws --draws 100000000 --report tests/draws/report.md`."""

import argparse
import os
import sys
import time
from pathlib import Path

# Before jax is imported: as in the tests, eight CPU devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from tests.draws.cases import CASES, Case
from tests.draws.counts import Counts, count
from tests.draws.report import Result, all_tests, write
from tests.draws.verdict import ALARM, alarms, least

KINDS = ("support", "log-probability", "fit", "entry", "tail entry", "tail", "independence")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.draws", description=__doc__)
    parser.add_argument("--draws", type=int, default=10**8, help="of each sampler's first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, nargs="*", help="numbers from 1 (default: all)")
    parser.add_argument("--counts", type=Path, help="a folder that keeps the counts of each case")
    parser.add_argument("--report", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.draws < 1:
        parser.error(f"--draws must be at least 1, got {options.draws}")
    if unknown := set(options.cases or []) - set(range(1, len(CASES) + 1)):
        parser.error(f"--cases must be from 1 to {len(CASES)}, got {sorted(unknown)}")

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    results: list[Result] = []
    for number, case in enumerate(CASES, 1):
        if options.cases and number not in options.cases:
            continue
        results.append(result_of(number, case, options))
        tests = results[-1].tests
        values = {kind: test.p for kind in KINDS if (test := least(tests, kind))}
        said = ", ".join(f"{kind} {p:.1e}" for kind, p in values.items())
        print(f"{number}. {case}: {results[-1].seconds:.0f} s; {said}", flush=True)
    if options.report:
        command = f"python -m tests.draws --draws {options.draws} --seed {options.seed}"
        if options.cases:
            command += f" --cases {' '.join(map(str, options.cases))}"
        report = write(results, f"{command} --report {options.report}", options.seed)
        options.report.write_text(report, encoding="utf-8")
    tests = all_tests(results)
    found = [(i, t) for i, t in tests if alarms([t], ALARM / len(tests))]
    for i, test in found:
        print(f"ALARM in case {i}: {test}")
    print(f"{len(found)} alarms in {len(tests)} tests")
    return 1 if found else 0


def result_of(number: int, case: Case, options: argparse.Namespace) -> Result:
    """The counts of a case: those that are kept from an earlier run, or new ones."""
    kept = options.counts and options.counts / f"{options.seed}-{options.draws}-{number}.npz"
    if kept and kept.exists():
        with np.load(kept) as file:
            parts = (file["tokens"], file["pairs"], float(file["error"]))
            return Result(number, case, Counts(*parts), float(file["seconds"]))
    # Of all threads: what else the machine does is not counted.
    start = time.process_time()
    counts = count(case, int(options.draws * case.share), options.seed + number)
    seconds = time.process_time() - start
    jax.clear_caches()
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **counts._asdict(), seconds=seconds)
    return Result(number, case, counts, seconds)


if __name__ == "__main__":
    sys.exit(main())
