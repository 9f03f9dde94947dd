"""Change a random sample of places in jsoftmax/, one at a time, and see which tests notice.

    uv run --group mutation python -m tests.mutation.run --each 10 --results FILE

Works on a copy of the repository. The results are lines of JSON; a run goes on where the last one
stopped. Programs that a mutant does not change come from jax's compilation cache.
"""

import argparse
import difflib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from tests.mutation.mutants import Mutant, mutants, sample
from tests.mutation.tests_of import TESTS_OF, Stage

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".git", ".uv", ".venv", ".venvs", "__pycache__", "site", "shared")
# Waiting counts too: shards that wait for one another do not use the processor.
PATIENCE = 900
# None of pytest's own: 0 to 5.
FAULT = 70
# Seconds for a stage that was not run on the unchanged module: none takes a third of it.
TRUSTED = 100


def prepare(cache: Path) -> None:
    """Import what takes long and is the same for all mutants: each is tested in a fork."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    sys.dont_write_bytecode = True
    import chex  # noqa: F401
    import jax.test_util  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401


def run_here(copy: Path, stage: Stage) -> int:
    """Run pytest in this process on the copy; its exit status."""
    os.chdir(copy)
    sys.path[:] = [str(copy), *[place for place in sys.path if place not in ("", str(ROOT))]]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    import pytest

    status = int(pytest.main(stage.arguments))
    sys.stdout.flush()
    return status


def run_stage(copy: Path, stage: Stage, log: Path, seconds: int) -> tuple[int, float]:
    """The exit status of pytest (negative: killed), and the processor time it took."""
    before = _processor_time()
    child = os.fork()
    if child == 0:
        # It never returns: what the caller would clean up is the parent's.
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(run_here(copy, stage))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAULT)
    end = time.monotonic() + PATIENCE
    while not (waited := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(waited[1]), _processor_time() - before


def _processor_time() -> float:
    """What the limit counts, of all children: the system's time is part of it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def change(before: str, after: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if line[:2] not in ("--", "++", "@@"))


def test_mutant(
    copy: Path, mutant: Mutant, stages: Sequence[Stage], limits: list[int], log: Path
) -> dict[str, Any]:
    """What became of it."""
    path = copy / "jsoftmax" / f"{mutant.module}.py"
    source = path.read_text()
    changed = mutant.apply(source)
    outcome, by, seconds = "survived", "", 0.0
    try:
        path.write_text(changed)
        for stage, limit in zip(stages, limits, strict=True):
            status, took = run_stage(copy, stage, log, limit)
            if status == FAULT:
                raise SystemExit(f"{mutant}: pytest did not run\n{log.read_text()}")
            seconds += took
            if status:
                failed = re.search(
                    r"^(?:FAILED|ERROR) (\S+)", log.read_text("utf-8", "replace"), re.M
                )
                outcome = "killed" if status > 0 else "timeout" if took > limit - 2 else "crashed"
                by = failed[1] if failed else ""
                break
    finally:
        path.write_text(source)
    return mutant._asdict() | {
        "change": change(source, changed),
        "outcome": outcome,
        "by": by,
        "seconds": round(seconds, 1),
    }


def in_turns(samples: list[list[Mutant]]) -> Iterator[Mutant]:
    """The first of every module, then the second: a run that is stopped has sampled all alike."""
    turns = chain.from_iterable(zip_longest(*samples))
    return (mutant for mutant in turns if mutant is not None)


def limits_of(copy: Path, module: str, stages: Sequence[Stage], log: Path) -> list[int]:
    """What the unchanged module takes, twice, and a little: the cache may have filled already."""
    limits = []
    for stage in stages:
        status, took = run_stage(copy, stage, log, 3600)
        if status:
            raise SystemExit(f"{module}: the tests fail on it unchanged\n{log.read_text()}")
        limits.append(20 + int(2 * took))
        print(f"{module}: {' '.join(stage.files)} in {took:.1f} s", flush=True)
    return limits


def table(results: list[dict[str, Any]]) -> str:
    """The outcomes of each module in Markdown."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result["module"]][result["outcome"]] += 1
        counts["all"][result["outcome"]] += 1
    lines = [
        "| module | places | sampled | killed | timeout | survived |",
        "|---|---|---|---|---|---|",
    ]
    total = 0
    for module in [*TESTS_OF, "all"]:
        found = counts[module]
        if module != "all":
            source = (ROOT / "jsoftmax" / f"{module}.py").read_text()
            places = len({mutant.position for mutant in mutants(module, source)})
            total += places
        places = total if module == "all" else places
        killed = found["killed"] + found["crashed"]
        row = [module, places, found.total(), killed, found["timeout"], found["survived"]]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main() -> None:
    """Sample, test, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS_OF), help="default: all")
    parser.add_argument("--each", type=int, default=10, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--results", type=Path, required=True, help="lines of JSON")
    parser.add_argument("--cache", type=Path, help="jax's compilation cache, kept")
    parser.add_argument(
        "--again", nargs="+", metavar="NAME", help="only what survived, by these test files"
    )
    parser.add_argument("--thin", type=int, default=1, help="of the tests of --again")
    parser.add_argument("--trust", action="store_true", help="the tests pass: do not see first")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    arguments = parser.parse_args()
    known = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    results = {tuple(r[k] for k in Mutant._fields[:3]): r for r in map(json.loads, known)}
    again = (Stage(tuple(arguments.again), arguments.thin),) if arguments.again else ()
    if not arguments.table:
        names = [module for module in TESTS_OF if module in arguments.modules]
        package = ROOT / "jsoftmax"
        chosen = in_turns([sample(package, m, arguments.each, arguments.seed) for m in names])
        survived = {key for key, r in results.items() if r["outcome"] == "survived"}
        left = [m for m in chosen if (m[:3] in survived if again else m[:3] not in results)]
        with tempfile.TemporaryDirectory() as folder:
            copy, log = Path(folder, "copy"), Path(folder, "log")
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
            prepare(arguments.cache or Path(folder, "cache"))
            limits: dict[str, list[int]] = {}
            for i, mutant in enumerate(left):
                stages = again or TESTS_OF[mutant.module]
                if mutant.module not in limits:
                    limits[mutant.module] = (
                        [TRUSTED] * len(stages)
                        if arguments.trust
                        else limits_of(copy, mutant.module, stages, log)
                    )
                result = test_mutant(copy, mutant, stages, limits[mutant.module], log)
                results[mutant[:3]] = result
                with arguments.results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                line = f"{i + 1}/{len(left)} {mutant.module}:{mutant.position[0]}"
                print(
                    f"{line} {result['outcome']} in {result['seconds']} s {result['by']}",
                    flush=True,
                )
    print(table(list(results.values())))


if __name__ == "__main__":
    main()
