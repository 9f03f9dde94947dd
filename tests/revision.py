"""Which code a report is of, and with which versions."""

import importlib.metadata
import platform
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


def versions() -> str:
    """Those of Python and of what computes."""
    packages = {"jax": "jax", "jaxlib": "jaxlib", "NumPy": "numpy"}
    named = [f"{name} {importlib.metadata.version(of)}" for name, of in packages.items()]
    return ", ".join([f"Python {platform.python_version()}", *named])
