"""SmolLM2's output layer split over simulated devices: tokens are drawn without a gather.

    python examples/sharded_decode.py "What is the capital of France?"
    python examples/sharded_decode.py "Name a fruit." --devices 4 --top-k 50

Each device holds a part of the vocabulary, computes its logits and keeps them. Every token is drawn
on one device too: the texts must be the same. Text goes to standard output, all else to standard
error. Needs the packages of the dependency group `examples`.
"""

import argparse
import os
import sys
from collections.abc import Sequence


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("prompt", help="what to ask the model")
    add("--devices", type=int, default=8, choices=[1, 2, 4, 8], help="(default: 8)")
    add("--temperature", type=float, default=0.7, metavar="X", help="0 is greedy (default: 0.7)")
    add("--top-k", type=int, metavar="X", help="keep the X most probable tokens")
    add("--top-p", type=float, default=0.95, metavar="X", help="keep this mass (default: 0.95)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another text (default: 0)")
    add("--max-tokens", type=int, default=48, metavar="N", help="at most so many (default: 48)")
    options = parser.parse_args(argv)
    if not (options.temperature >= 0 and 0 <= options.top_p <= 1):
        parser.error("--temperature must be at least 0, --top-p from 0 to 1")
    if options.max_tokens < 1 or not 0 <= options.seed < 2**32:
        parser.error("--max-tokens must be at least 1, --seed at least 0 and below 2**32")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    options = parse(argv)
    # Read when JAX is imported, which takes seconds: --help is answered before.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
    from rich.console import Console

    notes = Console(stderr=True, highlight=False)
    with notes.status("starting JAX"):
        import sharded

    try:
        same = sharded.run(options, notes)
    except (FileNotFoundError, sharded.RequestError) as error:
        print(f"sharded_decode.py: error: {error}", file=sys.stderr)
        return 2
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
