"""Text from SmolLM2-135M-Instruct, every token drawn by jsoftmax.

    python examples/generate.py "Tell me a short story about a fox."
    python examples/generate.py "Name a fruit." --temperature 0 0.7 1.5
    python examples/generate.py "What is the capital of France?" --explain --max-tokens 10

A setting takes one value for all rows, or one for each row. Text goes to standard output, all else
to standard error. Needs the packages of the dependency group `examples`.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

STARTED = time.perf_counter()
INTERRUPTED = 128 + signal.SIGINT  # What a shell reports of a program that Ctrl-C ended.


def is_setting(argument: str, before: str) -> bool:
    """Tells an option, or its value, from a prompt."""
    if before in ("--samples", "--seed", "--max-tokens"):
        return True
    try:
        float(argument)
    except ValueError:
        return argument.startswith("-")
    return True


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[dict[str, float]]]:
    """Returns the options, and from them the sampling settings of each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    setting = partial(add, nargs="+", metavar="X")
    add("prompt", help="what to ask the model")
    setting("--temperature", type=float, default=[0.7], help="0 is greedy (default: 0.7)")
    setting("--top-k", type=int, default=[0], help="keep the X most probable tokens (0: off)")
    setting("--top-p", type=float, default=[0.95], help="keep this much mass (default: 0.95)")
    setting("--min-p", type=float, default=[0.0], help="keep p >= X * the largest p (0: off)")
    add("--greedy", action="store_true", help="the same as --temperature 0")
    add("--samples", type=int, metavar="N", help="rows: how many texts to write at once")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another text (default: 0)")
    add("--max-tokens", type=int, default=256, metavar="N", help="at most so many (default: 256)")
    add("--explain", action="store_true", help="show what each step chose among, as bars")
    # The prompt may stand anywhere, also after an option that takes several numbers.
    settings_last = sorted(zip(argv, ["", *argv], strict=False), key=lambda of: is_setting(*of))
    options = parser.parse_args(argv if "--" in argv else [given for given, _ in settings_last])

    settings = {
        "temperature": [0.0] if options.greedy else options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
    }
    longest = max(map(len, settings.values()))
    count = longest if options.samples is None else options.samples
    if count < 1 or options.max_tokens < 1:
        parser.error("--samples and --max-tokens must be at least 1")
    # NaN, too, is the library's to refuse.
    if any(share < 0 or share > 1 for share in (*options.top_p, *options.min_p)):
        parser.error("--top-p and --min-p must be from 0 to 1")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must be at least 0 and below 2**32")
    if any(len(values) not in (1, count) for values in settings.values()):
        parser.error(f"a setting takes one value, or one for each row: here {count}")
    rows = [
        {name: values[row % len(values)] for name, values in settings.items()}
        for row in range(count)
    ]
    return options, rows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    options, rows = parse(sys.argv[1:] if argv is None else argv)

    # Not at the top of the file: JAX takes seconds to import, and --help and a mistyped option are
    # answered before.
    from rich.console import Console

    notes = Console(stderr=True, highlight=False)
    with notes.status("starting JAX"):
        import session

    try:
        session.run(
            options.prompt,
            rows,
            seed=options.seed,
            max_tokens=options.max_tokens,
            explain=options.explain,
            notes=notes,
            started=STARTED,
        )
    except session.RequestError as error:
        print(f"generate.py: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`head`, say) has left: Python must not try to flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Ends the program at once, with the cursor that a progress display hides.

    While modules are imported and programs compiled, a KeyboardInterrupt would be lost or worse: it
    is raised wherever Python happens to be, and extension modules being imported do not expect it.
    """
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, leave)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
