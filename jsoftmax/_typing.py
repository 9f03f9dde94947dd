"""Aliases that the signatures share."""

from collections.abc import Hashable
from typing import Literal, TypeAlias

from jax.typing import ArrayLike

Axis: TypeAlias = int
"""An axis of the array itself, counted from the front or (negative) from the back."""

AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None
"""The mesh axis, or axes, over which ``axis`` is split inside ``jax.shard_map``."""

Setting: TypeAlias = ArrayLike
"""A Python number, a 0-d array, or an array that broadcasts to the batch shape."""

Ties: TypeAlias = Literal["all", "first"]
"""What a truncation does with entries that equal its cut."""
