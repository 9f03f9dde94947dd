"""Where an array lies on an Explicit mesh: whole on every device, or split as other rows are."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec


def everywhere(x: Array) -> Array:
    """The same array, whole on every device: Explicit meshes do not sort or group what they split.

    For a number per example: what crosses devices is O(batch).
    """
    if not any(jax.typeof(x).sharding.spec):
        return x
    return split_over(x, jax.typeof(x).sharding.mesh, [None] * x.ndim)


def lie_as(x: Array, rows: Array) -> Array:
    """The array, of one number per row or for all, split over Explicit mesh axes as the rows are.

    An operation of both may refuse one that is whole on every device, or split where they are not.
    """
    split = any(any(jax.typeof(of).sharding.spec) for of in (x, rows))
    if x.size == 1 or not split:
        return x
    return _lie_as(x, rows)


# As a program, which takes an array that lies on one device along to the mesh of the rows.
@partial(jax.jit, inline=True, keep_unused=True)
def _lie_as(x: Array, rows: Array) -> Array:
    sharding = jax.typeof(rows).sharding
    axes = [axes if n > 1 else None for axes, n in zip(sharding.spec, x.shape, strict=True)]
    return split_over(x, sharding.mesh, axes)


def split_over(x: Array, mesh: AbstractMesh, axes: Sequence[Any]) -> Array:
    """The array, split over these axes of a mesh, which need not be around the call."""
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*axes)))
