"""Next-token logits of a real language model, SmolLM2-135M-Instruct, in six contexts."""

from pathlib import Path

import numpy as np

_FILE = Path(__file__).parent / "data" / "smollm2_logits.npz"


def load() -> np.ndarray:
    """Returns the logits, float32 [6, 49152], each a bfloat16 number: see names() for the rows."""
    with np.load(_FILE) as file:
        high, low = np.moveaxis(file["planes"].astype(np.uint32), 1, 0)
    # A bfloat16 number is the upper half of a float32 number.
    return (high << 24 | low << 16).view(np.float32)


def names() -> list[str]:
    """Returns what the context of each row is."""
    with np.load(_FILE) as file:
        return file["names"].tolist()
