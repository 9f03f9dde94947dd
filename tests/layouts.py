"""Ways to lay rows over the eight CPU devices, and functions run on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.registry import Entry


@dataclass(frozen=True)
class Layout:
    """A mesh, and which of its axes split the vocabulary and which the batch."""

    name: str
    shape: tuple[int, ...]
    axis_names: tuple[str, ...]
    vocabulary: str | tuple[str, ...]
    batch: str | None = None
    kind: AxisType = AxisType.Auto
    check_vma: bool = True

    def __str__(self) -> str:
        """The name, for pytest's ids."""
        return self.name

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh, of the first devices."""
        devices = jax.devices()[: math.prod(self.shape)]
        kinds = (self.kind,) * len(self.shape)
        return jax.make_mesh(self.shape, self.axis_names, kinds, devices=devices)

    @property
    def rows(self) -> P:
        """How [batch, vocabulary] is split."""
        return P(self.batch, self.vocabulary)

    def put(self, x: Any) -> jax.Array:
        """An array [batch, vocabulary] on the mesh."""
        return jax.device_put(x, NamedSharding(self.mesh, self.rows))

    def on_shards(self, entry: Entry, **settings: Any) -> Callable[..., Any]:
        """`entry` inside `shard_map`, as a function of the logits, `where` and the key."""
        out = self.rows if entry.kind in ("map", "mask") else P(self.batch)

        def local(x: jax.Array, where: jax.Array, key: jax.Array) -> Any:
            return entry(x, where=where, key=key, axis_name=self.vocabulary, **settings)

        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(self.rows, self.rows, P()),
            out_specs=(out, out) if entry.pair else out,
            check_vma=self.check_vma,
        )


def shards(count: int) -> Layout:
    """So many shards of the vocabulary, on one mesh axis."""
    return Layout(f"{count} shards", (count,), ("vocab",), "vocab")


AUTO = shards(4)
EXPLICIT = Layout(
    "two explicit axes, batch",
    (2, 2, 2),
    ("data", "row", "column"),
    ("row", "column"),
    batch="data",
    kind=AxisType.Explicit,
)
UNCHECKED = Layout("8 shards, no vma", (8,), ("vocab",), "vocab", check_vma=False)
LAYOUTS = (AUTO, EXPLICIT, UNCHECKED)
"""What matters of a mesh, each at least once: kind, number of axes, a split batch, the check."""
