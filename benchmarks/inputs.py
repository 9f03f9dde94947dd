"""The logits that the benchmark runs on: a real language model's, and drawn ones."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

# Texts of several kinds; the model says at each of their tokens what may come next.
STORY = """The lighthouse keeper climbed the stairs every evening at six. He had done so for thirty
years, and the sea had never once asked him why."""
CODE = """def mean(values):
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)


class Stack:
    def __init__(self):
"""
SCIENCE = """Water boils at 100 degrees Celsius at sea level. On top of Mount Everest, where the
pressure of the air is only a third of that, it boils at about 71 degrees."""
CHAT = """User: What should I cook tonight?
Assistant: How about a simple pasta with garlic, olive oil and chilli? It takes fifteen minutes.
User: I am out of garlic.
Assistant:"""
ROWS = 64


def smollm2() -> np.ndarray:
    """The next-token logits of SmolLM2-135M-Instruct, [64, 49152]: at 16 places of each text."""
    from checkpoint import Checkpoint

    checkpoint = Checkpoint()
    model = checkpoint.load()
    logits = jax.jit(lambda model, tokens: model(tokens)[0][0])
    texts = (STORY, CODE, SCIENCE, CHAT)
    rows = []
    for text in texts:
        tokens = jnp.array([checkpoint.tokenizer.encode(text).ids])
        places = np.linspace(1, tokens.shape[1] - 1, ROWS // len(texts)).astype(int)
        rows.append(np.asarray(logits(model, tokens))[places])
    return np.concatenate(rows).astype(np.float32)


def quantised(rows: np.ndarray) -> np.ndarray:
    """float32 rows that hold bfloat16 numbers: many entries tie."""
    return np.asarray(jnp.asarray(rows).astype(jnp.bfloat16).astype(jnp.float32))


def make(*, quick: bool) -> dict[str, np.ndarray]:
    """All inputs by name; "real" is in the names of those that come from the model."""
    real = smollm2()
    normal = np.random.default_rng(0).standard_normal((32, 128256)).astype(np.float32)
    inputs = {"real [1, 49152]": real[ROWS // 2 : ROWS // 2 + 1], "real [64, 49152]": real}
    if quick:
        return inputs | {"N(0, 9) [8, 128256]": 3 * normal[:8]}
    return inputs | {
        "real, bfloat16 values [64, 49152]": quantised(real),
        "N(0, 9) [32, 128256]": 3 * normal,
        "N(0, 1/4) [32, 128256]": normal / 2,
        "N(0, 9), bfloat16 values [32, 128256]": quantised(3 * normal),
    }
