"""Writes smollm2_logits.npz: what SmolLM2-135M-Instruct says may come next, in six contexts.

    python tests/data/make_smollm2_logits.py

The logits are kept in bfloat16, the type in which models are served: a row is what a bfloat16 model
gives (its many ties included) and is exact in float32. To compress well, the high bytes of a row
stand before its low bytes. `tests/real_logits.py` reads the file.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from checkpoint import Checkpoint, chat

# From certain to wide open: the sets that hold 0.9 of the mass have from 1 to about 1000 tokens.
CONTEXTS = {
    "answer": chat("What is the capital of France?") + "The capital of France is",
    "code": "def fibonacci(n):\n    if n < 2:\n        return",
    "mid-word": "The longest word in English is said to be pneumonoultramicroscopicsilicovol",
    "story": chat("Tell me a story.") + "Once upon a time, in a village by the sea, there lived a",
    "opening": chat("Say anything at all."),
    "name": "The name of the main character of the novel is",
}


def main() -> None:
    checkpoint = Checkpoint()
    model = checkpoint.load()
    last_logits = jax.jit(lambda model, tokens: model(tokens)[0][0, -1])
    planes = []
    for text in CONTEXTS.values():
        tokens = jnp.array([checkpoint.tokenizer.encode(text).ids])
        bits = np.asarray(last_logits(model, tokens).astype(jnp.bfloat16)).view(np.uint16)
        planes.append([bits >> 8, bits & 0xFF])
    path = Path(__file__).with_name("smollm2_logits.npz")
    np.savez_compressed(path, names=list(CONTEXTS), planes=np.array(planes, np.uint8))
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
