"""Which code a report is of."""

import subprocess
from pathlib import Path


def revision() -> str:
    """The commit, and whether files were changed since."""
    command = ["git", "describe", "--always", "--dirty=, changed since", "--abbrev=10"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
