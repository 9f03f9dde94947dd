"""Meshes with Explicit axes: rows that such axes split are worked on shard by shard.

There the type of an array says how it is split, and an operation on the axis that is split may be
refused (a top-k, a prefix sum, an entry by its index). The functions that need one see the type and
do as they would inside ``jax.shard_map`` with ``axis_name``. On Auto axes the type says nothing,
and the partitioner decides.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import jax
from jax import Array
from jax.sharding import PartitionSpec

from jsoftmax._typing import Along

Result = TypeVar("Result")


def by_shards(*, split: bool) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorate a function of arguments `logits`, `along` and others, arrays first.

    Args:
      split: whether the results have the axis of the rows, or the batch shape.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        names = list(inspect.signature(function).parameters)
        place, arrays = names.index("logits"), names.index("along")

        @wraps(function)
        def over_shards(*arguments: object) -> Result:
            logits, along = cast("Array", arguments[place]), cast("Along", arguments[arrays])
            sharding = jax.typeof(logits).sharding
            entry = sharding.spec[along.axis]
            if along.axis_name or entry is None:
                return function(*arguments)
            axis_name = entry if isinstance(entry, tuple) else (entry,)
            rows = PartitionSpec(*[None] * along.axis, axis_name)
            specs = [PartitionSpec()] * arrays
            specs[place] = rows

            def local(*operands: object) -> Result:
                return function(*operands, Along(along.axis, axis_name), *arguments[arrays + 1 :])

            return jax.shard_map(
                local,
                mesh=sharding.mesh,
                in_specs=tuple(specs),
                out_specs=rows if split else PartitionSpec(),
                axis_names=set(axis_name),
            )(*arguments[:arrays])

        return over_shards

    return decorate
