"""What is asked to stay on this machine listens on loopback alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from memjax.runtime.hosts import _is_loopback
from tests.commands import PATIENCE

CHILD = """
import sys
from memjax.runtime import hosts

hosts.start(hosts.Cluster(sys.argv[1], 2, int(sys.argv[2])))
hosts.gather(1)
print("joined", flush=True)
sys.stdin.read()
"""
# As /proc/net/tcp and tcp6 write 127.0.0.1.
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")


@pytest.mark.parametrize(
    ("coordinator", "expected"),
    [
        ("127.0.0.1:9", True),
        ("127.3.2.1:9", True),
        ("localhost:9", True),
        ("[::1]:9", True),
        ("10.0.0.1:9", False),
        ("0.0.0.0:9", False),
        ("[::]:9", False),
        ("host-0:9", False),
        ("", False),
    ],
)
def test_which_addresses_are_loopback(coordinator, expected):
    assert _is_loopback(coordinator) == expected


def listening(pid: int) -> list[str]:
    """Returns the addresses at which a process listens."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_processes_at_127_0_0_1_listen_nowhere_else():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", CHILD, address, str(i)], **pipes) for i in range(2)
    ]
    try:
        for process in both:
            assert any("joined" in line for line in process.stdout)
        found = [address for process in both for address in listening(process.pid)]
    finally:
        for process in both:
            process.stdin.close()
        for process in both:
            process.wait(PATIENCE)
            process.stdout.close()
    assert len(found) >= 2
    assert set(found) <= set(LOOPBACK)
