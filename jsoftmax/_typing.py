"""Aliases that the signatures share, and where a row lies."""

from collections.abc import Hashable
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from jax.typing import ArrayLike

Tree = TypeVar("Tree")
"""Any pytree of arrays."""

Axis: TypeAlias = int
"""An axis of the array itself, counted from the front or (negative) from the back."""

AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None
"""The mesh axis, or axes, over which ``axis`` is split inside ``jax.shard_map``."""

Setting: TypeAlias = ArrayLike
"""A Python number, a 0-d array, or an array that broadcasts to the batch shape."""

Ties: TypeAlias = Literal["all", "first"]
"""What a truncation does with entries that equal its cut."""


class Along(NamedTuple):
    """Where a row lies: its axis in the array, and the mesh axes that split it (dense: none)."""

    axis: int
    axis_name: tuple[Hashable, ...] = ()

    @property
    def last(self) -> "Along":
        """The same row in an array that has it as the last axis."""
        return Along(-1, self.axis_name)
