"""The logits that the benchmark runs on: a real language model's, and drawn ones."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

# Texts of several kinds; the model says at each of their tokens what may come next.
TEXTS = (
    "The lighthouse keeper climbed the stairs every evening at six. He had done so for thirty "
    "years, and the sea had never once asked him why.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return "
    "sum(values) / len(values)\n\n\nclass Stack:\n    def __init__(self):\n",
    "Water boils at 100 degrees Celsius at sea level. On top of Mount Everest, where the pressure "
    "of the air is only a third of that, it boils at about 71 degrees.",
    "User: What should I cook tonight?\nAssistant: How about a simple pasta with garlic, olive oil "
    "and chilli? It takes fifteen minutes.\nUser: I am out of garlic.\nAssistant:",
)
ROWS = 64


def smollm2() -> np.ndarray:
    """Returns the next-token logits of SmolLM2-135M-Instruct, [64, 49152]: 16 of each text."""
    from checkpoint import Checkpoint

    checkpoint = Checkpoint()
    model = checkpoint.load()
    logits = jax.jit(lambda model, tokens: model(tokens)[0][0])
    rows = []
    for text in TEXTS:
        tokens = jnp.array([checkpoint.tokenizer.encode(text).ids])
        share = ROWS // len(TEXTS)
        positions = np.linspace(1, tokens.shape[1] - 1, share).astype(int)
        rows.append(np.asarray(logits(model, tokens))[positions])
    return np.concatenate(rows).astype(np.float32)


def quantised(rows: np.ndarray) -> np.ndarray:
    """Returns float32 rows that hold bfloat16 numbers: many entries tie."""
    return np.asarray(jnp.asarray(rows).astype(jnp.bfloat16).astype(jnp.float32))
