"""TPUs and CUDA GPUs to compile for on a machine that has neither.

The packages `libtpu` (dependency group `tpu`) and `jax-cuda13-plugin` (group `cuda`) carry the
whole compilers, and jax describes the devices without opening one.
"""

import functools
import importlib.metadata
import importlib.util
import math
import os
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

# libtpu reads these when it is loaded, which is when a topology is first asked for. They keep it
# from looking for a TPU on this machine, from writing logs, and from locking other processes out.
os.environ |= {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# What XLA asks a driver about a GPU, where there is one.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 13 }
"""


@dataclass(frozen=True)
class Target:
    """A kind of device, and how many of them are joined."""

    name: str
    platform: str
    topology: str

    def __str__(self) -> str:
        """The name, for pytest's ids and the table."""
        return self.name

    @property
    def missing(self) -> str | None:
        """What has to be installed to compile for it, or None."""
        if self.platform == "tpu":
            found = importlib.util.find_spec("libtpu")
            return None if found else "libtpu is not installed (--group tpu)"
        found = importlib.util.find_spec("jax_cuda13_plugin")
        return None if found else "jax-cuda13-plugin is not installed (--group cuda)"

    def mesh(self, **axes: int) -> Mesh:
        """A mesh of its first devices, the axes named and sized by the keywords."""
        shape = tuple(axes.values())
        devices = _devices(self.platform, self.topology)[: math.prod(shape)]
        return Mesh(np.array(devices).reshape(shape), tuple(axes))


@functools.cache
def _devices(platform: str, topology: str) -> list[jax.Device]:
    # Asked twice, jax describes other devices, which do not go together with the first.
    if platform == "tpu":
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return topologies.get_topology_desc(
        platform="cuda", topology=topology, target_config=_H100
    ).devices


TARGETS = (
    Target("TPU v4", "tpu", "v4:2x2x1"),
    Target("TPU v5e", "tpu", "v5e:2x2"),
    Target("TPU v5p", "tpu", "v5p:2x2x1"),
    Target("TPU v6e", "tpu", "v6e:2x2"),
    Target("TPU7x", "tpu", "tpu7x:2x2x1"),
    Target("H100", "cuda", "1x1x4"),
)
PODS = (
    Target("TPU v5e 16x16", "tpu", "v5e:16x16"),
    Target("TPU v6e 16x16", "tpu", "v6e:16x16"),
    Target("32 hosts of 8 H100", "cuda", "1x32x8"),
)
"""256 devices each."""
EXPORTED = ("cpu", "cuda", "rocm", "tpu")
"""The platforms of `jax.export`, which lowers a program and leaves the compiling for later."""


def by_name(name: str) -> Target:
    """The target with this name."""
    return next(target for target in (*TARGETS, *PODS) if target.name == name)


def versions() -> str:
    """The versions of the compilers, for the table."""
    packages = ("jax", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc")
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
