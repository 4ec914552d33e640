"""Two hosts, which are two network namespaces joined by a cable, with a torchrun each, train as one process does.

Nothing is shared between the hosts but the files that are read: each works in a folder of its own. The processes are
forked; test_torchrun.py starts them as a user does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.forked_workers import ForkedPython
from tests.integration.process_runs import ROOT, assert_same_run, overrides_of, train, write_rows

HOSTS = [f"leyden-{os.getpid()}-{number}" for number in range(2)]
ADDRESSES = ["10.97.0.1", "10.97.0.2"]
TEXTS = ["lora.dropout=0", "dataset.answer_column=output", "generation.max_length_inference=3", "optimizer.eps=0.01"]
RATES = ["optimizer.learning_rate=0.05", "dataset.validation_size=0.2"]
LACKING = "" if os.geteuid() == 0 else "needs root, to make network namespaces"
LACKING = LACKING or ("" if shutil.which("ip") else "needs the command ip (package iproute2)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(LACKING), reason=LACKING or "all is there"),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two namespaces, each with one end of a veth pair and its own loopback; removed whatever happens."""
    try:
        try:
            for host in HOSTS:
                ip("netns", "add", host)
            ip("link", "add", "veth0", "netns", HOSTS[0], "type", "veth", "peer", "name", "veth0", "netns", HOSTS[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", "veth0")
            ip("-n", host, "link", "set", "veth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:  # the cable goes with its ends
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


def start(host: int, folder: Path, *overrides: str) -> ForkedPython:
    """`torchrun` on one host, in a folder that is its own."""
    folder.mkdir()
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(host),
        "--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", "29511", str(ROOT / "train.py"),
    ]  # fmt: skip
    return ForkedPython(
        [*launcher, *overrides, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"],
        cwd=folder, env={**os.environ, "GLOO_SOCKET_IFNAME": "veth0"}, namespace=HOSTS[host], capture_output=True,
    )  # fmt: skip


def test_b74_two_hosts_equal_one_process(hosts: list[str], tmp_path: Path) -> None:
    table = write_rows(tmp_path / "rows.csv")
    # first: what it loads is there in the processes that are forked
    one = train(table, tmp_path / "one", *TEXTS, *RATES, "trainer=cpu", "trainer.batch_size=4")
    own = [text for text in overrides_of(table, tmp_path / "two", *TEXTS, *RATES) if "output_directory" not in text]
    cut = ["trainer.batch_size=1", "trainer.grad_accumulation=2"]
    running = [start(number, tmp_path / f"host{number}", *own, *cut) for number in range(len(hosts))]
    try:
        said = [process.communicate(timeout=400) for process in running]
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
    assert [process.returncode for process in running] == [0, 0], said
    assert not list((tmp_path / "host1").iterdir()), "a later host wrote something"
    assert_same_run(one, tmp_path / "host0" / "outputs" / "two")
