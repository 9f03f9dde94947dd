"""One of two processes of four devices each: `python -m tests.hosts_worker RANK PORT`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax

PROCESSES, DEVICES = 2, 4


def main(rank: int, port: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address,
        num_processes=PROCESSES,
        process_id=rank,
        initialization_timeout=60,
        coordinator_bind_address=address if rank == 0 else None,
    )
    assert jax.process_count() == PROCESSES
    assert len(jax.devices()) == PROCESSES * DEVICES
    assert len(jax.local_devices()) == DEVICES

    mesh = jax.make_mesh((PROCESSES * DEVICES,), ("vocab",), (jax.sharding.AxisType.Auto,))
    split = P(None, "vocab")
    x = (3 * np.random.default_rng(0).standard_normal((16, 4096))).astype(np.float32)
    weight = np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    key = jax.random.key(5)

    def on_mesh(array: np.ndarray) -> jax.Array:
        """Every host gives the shards of its own devices."""
        sharding = NamedSharding(mesh, split)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def softmax_and_gradient(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        p, pull = jax.vjp(lambda x: jsoftmax.softmax(x, temperature=0.7, axis_name="vocab"), x)
        return p, pull(weight)[0]

    def over_hosts(function, out_specs, *arrays):
        shards = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=out_specs)
        return jax.jit(shards)(*map(on_mesh, arrays))

    def check_shards(got: jax.Array, want: jax.Array, atol: float) -> None:
        assert len(got.addressable_shards) == DEVICES
        for shard in got.addressable_shards:
            np.testing.assert_allclose(shard.data, want[shard.index], rtol=1e-5, atol=atol)

    p, gradient = over_hosts(softmax_and_gradient, (split, split), x, weight)
    dense, pull = jax.vjp(lambda x: jsoftmax.softmax(x, temperature=0.7), jnp.asarray(x))
    check_shards(p, dense, 1e-7)
    check_shards(gradient, pull(jnp.asarray(weight))[0], 1e-6)

    mask = over_hosts(lambda x: jsoftmax.top_p_mask(x, 0.9, axis_name="vocab"), split, x)
    check_shards(mask, jsoftmax.top_p_mask(x, 0.9), 0)

    settings = {"temperature": 0.8, "top_k": 200, "top_p": 0.9}
    tokens = over_hosts(
        lambda x: jsoftmax.sample(key, x, axis_name="vocab", **settings), P(None), x
    )
    np.testing.assert_array_equal(tokens, jsoftmax.sample(key, x, **settings))

    # An eager call, whose values this process does not hold.
    p = jsoftmax.checked(jsoftmax.softmax)(on_mesh(x))
    check_shards(p, jsoftmax.softmax(jnp.asarray(x)), 1e-7)

    multihost_utils.sync_global_devices("checked")
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
