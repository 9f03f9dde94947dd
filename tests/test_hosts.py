"""Several hosts: two processes on loopback, four devices each, agree with one device."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 240


@pytest.mark.slow
def test_two_processes_agree_with_dense() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The settings of this process are for one host.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hosts_worker", str(rank), str(port)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        # Where one fails the other would wait for it: both are ended then.
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and {w.poll() for w in workers} <= {None, 0}:
            if all(worker.poll() == 0 for worker in workers):
                break
            time.sleep(0.2)
    finally:
        codes = [worker.poll() for worker in workers]
        for worker in workers:
            worker.kill()
        outputs = [worker.communicate()[0] for worker in workers]
    assert codes == [0, 0], "\n".join(outputs)
