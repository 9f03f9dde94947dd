"""What is sampled for mutants."""

from pathlib import Path

import jsoftmax
from tests.mutation.tests_of import TESTS_OF


def test_mutants_of_every_module_meet_tests() -> None:
    """But of those that hold names alone."""
    modules = {path.stem for path in Path(jsoftmax.__file__).parent.glob("*.py")}
    assert set(TESTS_OF) == modules - {"__init__", "_typing", "plot"}
