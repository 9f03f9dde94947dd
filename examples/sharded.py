"""One run of `sharded_decode.py`: the output layer on one device and on several, side by side."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.table import Table
from rich.text import Text

import jsoftmax
from checkpoint import Checkpoint, chat
from collectives import Collective, collectives
from decoding import CHUNK, prefill
from session import RequestError
from smollm2 import SmolLM2


class Head:
    """The output layer and the draw, compiled for the devices of a mesh.

    Args:
      embedding: [vocabulary, width]; each device gets a part of the vocabulary.
      settings: of `jsoftmax.sample`.
    """

    def __init__(self, mesh: Mesh, embedding: Array, settings: dict[str, Any]):
        def draw(key: Array, features: Array, rows: Array) -> Array:
            logits = jnp.einsum("bd,vd->bv", features, rows)
            return jsoftmax.sample(key, logits, axis_name="vocab", **settings)

        on_shards = jax.shard_map(
            draw, mesh=mesh, in_specs=(P(), P(), P("vocab", None)), out_specs=P(None)
        )
        self._everywhere = NamedSharding(mesh, P())
        self._rows = jax.device_put(embedding, NamedSharding(mesh, P("vocab", None)))
        features = jax.ShapeDtypeStruct(
            (1, embedding.shape[1]), embedding.dtype, sharding=self._everywhere
        )
        key = jax.device_put(jax.random.key(0), self._everywhere)
        self._program = jax.jit(on_shards).lower(key, features, self._rows).compile()
        self.collectives = collectives(self._program)

    def __call__(self, key: Array, features: Array) -> int:
        key, features = jax.device_put((key, features), self._everywhere)
        return int(self._program(key, features, self._rows)[0])


def run(options: Namespace, notes: Console) -> bool:
    """Writes the text and what crossed; returns whether one device draws the same text.

    Raises:
      FileNotFoundError: where the model is not installed.
      RequestError: for a prompt that leaves no room, or more devices than there are.
    """
    checkpoint = Checkpoint()
    prompt = checkpoint.tokenizer.encode(chat(options.prompt)).ids
    room = checkpoint.config.context_length - len(prompt)
    if room < 1:
        raise RequestError(f"the prompt has {len(prompt)} tokens and leaves no room for an answer")
    devices = jax.devices()[: options.devices]
    if len(devices) < options.devices:
        raise RequestError(f"--devices {options.devices}: there are {len(devices)}")
    with notes.status("loading the weights"):
        model = checkpoint.load()
    embedding = model.embedding.embedding[...]
    settings = {"temperature": options.temperature, "top_p": options.top_p}
    if options.top_k is not None:
        settings["top_k"] = options.top_k
    with notes.status("compiling the output layer"):
        split = Head(mesh(devices), embedding, settings)
        dense = Head(mesh(devices[:1]), embedding, settings)

    drawn, drawn_dense = [], []
    with notes.status("writing"):
        steps = decode(
            model, prompt, split, jax.random.key(options.seed), min(options.max_tokens, room)
        )
        for key, features, token in steps:
            drawn.append(token)
            drawn_dense.append(dense(key, features))
            if token == checkpoint.end_token:
                break
    text, text_dense = [
        checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        for tokens in (drawn, drawn_dense)
    ]
    print(text, flush=True)
    notes.print(crossed(split.collectives, len(devices), embedding.shape[0]))
    if drawn == drawn_dense:
        notes.print(Text(f"{len(drawn)} tokens, the same on one device.", style="green"))
    else:
        notes.print(Text(f"On one device the text is another: {text_dense}", style="red"))
    return drawn == drawn_dense


def mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of these devices, with one axis."""
    return jax.make_mesh((len(devices),), ("vocab",), (AxisType.Auto,), devices=devices)


def decode(
    model: SmolLM2, prompt: Sequence[int], head: Head, key: Array, max_tokens: int
) -> Iterator[tuple[Array, Array, int]]:
    """Yields each step's key, what the output layer reads, and the token that `head` drew.

    The layers run on one device; they are not what this example splits.
    """
    *context, token = prompt
    positions = -(-(len(prompt) + max_tokens) // CHUNK) * CHUNK
    read = jax.jit(prefill, donate_argnames="cache")
    step = jax.jit(SmolLM2.features, donate_argnames="cache")
    cache = model.new_cache(1, positions)
    for start in range(0, len(context), CHUNK):
        chunk = context[start : start + CHUNK]
        padded = jnp.asarray([chunk + [0] * (CHUNK - len(chunk))], jnp.int32)
        cache = read(model, cache, padded, jnp.int32(start))
    for position in range(len(context), len(context) + max_tokens):
        features, cache = step(model, jnp.array([[token]], jnp.int32), jnp.int32(position), cache)
        step_key = jax.random.fold_in(key, position)
        token = head(step_key, features[:, 0])
        yield step_key, features[:, 0], token


def crossed(found: Sequence[Collective], devices: int, vocab_size: int) -> Table:
    """What crosses for one token, by the compiled program, beside what a gather would move."""
    once, a_round = (
        [collective.bytes for collective in found if collective.in_loop == in_loop]
        for in_loop in (False, True)
    )
    table = Table(title=f"Collectives of one token, {devices} devices", title_style="")
    add = partial(table.add_column, justify="right")
    table.add_column("")
    add("number")
    add("bytes of the results")
    table.add_row("once", str(len(once)), f"{sum(once)}")
    table.add_row("a round of a loop", str(len(a_round)), f"{sum(a_round)}")
    gathered = 4 * vocab_size
    table.add_row("a gather of the logits", "1", f"{gathered}", style="dim")
    if a_round:
        rounds = (gathered - sum(once)) // sum(a_round)
        table.caption = f"A gather would move as much as {rounds} rounds."
    return table
