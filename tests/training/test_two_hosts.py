"""Two network namespaces as two hosts with a cable between them: scripts/run_pretraining.sh from a shell on each.

Each has its own 127.0.0.1 and name, and finds the other by what its /etc/hosts says. What they share is the disk.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import phase1_runs
import pytest
from distributed_runs import PATIENCE, Job
from paths import ROOT
from pretraining_runs import curve, losses
from script_runs import environment, run

from common.checkpoint_files import find_checkpoints

pytestmark = pytest.mark.slow

STEPS = 6
IN_CI = bool(os.environ.get("CI"))
HEARTBEAT_SECONDS = 20
"""After which a rank without a sign of life counts as lost, in a user's run."""
# In a host's network, under its name and with its /etc/hosts: a shell that becomes $0.
ON_HOST = """
exec ip netns exec "$HOST" unshare --uts --mount bash -c '
  hostname "$HOST" && mount --bind "$HOSTS_FILE" /etc/hosts && exec bash "$0"
' "$0"
"""


class Hosts:
    """Two namespaces and the pair of interfaces that joins them; the file of their names goes to `folder`.

    Attributes:
        names: of the hosts, which are those of the namespaces.
        addresses: in the network that both are in.
        interfaces: of each, the one that leads to the other.
    """

    def __init__(self, folder):
        number = os.getpid() % 2**16
        self.names = tuple(f"bert-{number}-{host}" for host in "ab")
        self.interfaces = tuple(f"bt{number}{host}" for host in "ab")
        network = f"10.{213 + number // 2**14}.{number // 64 % 256}.{number % 64 * 4}".rsplit(".", 1)
        self.addresses = tuple(f"{network[0]}.{int(network[1]) + host}" for host in (1, 2))
        self.file = folder / "hosts"
        lines = ["127.0.0.1 localhost", *map(" ".join, zip(self.addresses, self.names, strict=True))]
        self.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            self._make()
        except subprocess.CalledProcessError:
            self.remove()
            raise

    def _make(self):
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.interfaces[0], "type", "veth", "peer", "name", self.interfaces[1])
        for name, interface, address in zip(self.names, self.interfaces, self.addresses, strict=True):
            ip("link", "set", interface, "netns", name)
            ip("-netns", name, "address", "add", f"{address}/30", "dev", interface)
            for device in ("lo", interface):
                ip("-netns", name, "link", "set", device, "up")

    def remove(self):
        for name in self.names:  # with a namespace go its interfaces
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def cut_the_cable(self):
        ip("-netns", self.names[1], "link", "set", self.interfaces[1], "down")

    def kill(self, host):
        """All processes of a host, and what they may have started meanwhile."""
        listing = ["ip", "netns", "pids", self.names[host]]
        while pids := subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
            for pid in map(int, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def environments(self, **variables):
        """Of the shell on each host."""
        both = {"NNODES": 2, "MASTER_ADDR": self.names[0], "HOSTS_FILE": self.file, **variables}
        return tuple(
            environment(**both, HOST=name, GLOO_SOCKET_IFNAME=interface)
            for name, interface in zip(self.names, self.interfaces, strict=True)
        )


def ip(*arguments):
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


def skip_or_fail(reason):
    (pytest.fail if IN_CI else pytest.skip)(reason)


@pytest.fixture
def hosts(tmp_path):
    missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        skip_or_fail(f"making network namespaces needs root and iproute2: {missing or 'this is no root'}")
    try:
        two = Hosts(tmp_path)
    except subprocess.CalledProcessError as error:
        skip_or_fail(f"network namespaces cannot be made here ({error.stderr.strip()})")
    yield two
    two.remove()


def job_of(hosts, folder, steps, **changes):
    variables = phase1_runs.settings(folder, steps, **changes)
    command = ["bash", "-c", ON_HOST, ROOT / "scripts" / "run_pretraining.sh"]
    return Job(command, folder, hosts.environments(**variables)), variables


def test_two_hosts_train_what_one_process_does(hosts, tmp_path):
    job, variables = job_of(hosts, tmp_path, STEPS)
    with job:
        statuses = job.wait(PATIENCE)
    assert statuses == [0, 0], job.output(0) + job.output(1)
    assert f"Results: {tmp_path}/out" in job.output(1)
    ended = run("scripts/run_pretraining.sh", cwd=tmp_path, **variables | {"OUTPUT_DIR": tmp_path / "alone"})
    assert ended.returncode == 0, ended.stderr
    expected = losses(tmp_path / "alone")
    assert len(set(expected)) == STEPS
    assert losses(tmp_path / "out") == pytest.approx(expected, rel=1e-6)


def has_ended(pid):
    """Whether a process of this one's has, which stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def lost(hosts, folder, strike, left):
    """What the shell of host `left` ends with and prints after `strike`, once both train, and when its rank has ended.

    In seconds, without what torchrun and the shell take to end after it, which depends on how busy this machine is.
    """
    job, _ = job_of(hosts, folder, 10**6, STEPS_PER_CHECKPOINT=10**6)
    log = folder / "out" / "dllogger.json"
    with job:
        job.wait_until(lambda: log.exists() and len(curve(folder / "out")) >= 3)
        rank = Path("/proc", str(job.pid_of_rank(left)))
        strike()
        begin = time.monotonic()
        job.wait_until(lambda: not rank.exists())
        seconds = time.monotonic() - begin
        job.wait_until(lambda: has_ended(job.pid(left)))
        hosts.kill(1 - left)
        status = job.wait(PATIENCE)[left]
    return status, job.output(left), seconds


@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_host_is_killed_the_other_names_it_and_ends(hosts, tmp_path, killed):
    status, output, seconds = lost(hosts, tmp_path, lambda: hosts.kill(killed), 1 - killed)
    assert status == 1, output
    assert seconds < 1.5 * HEARTBEAT_SECONDS
    assert re.search(rf"error: .*rank {killed} on host {hosts.names[killed]} is gone", output), output


def test_when_the_cable_is_cut_the_host_of_rank_0_names_the_other_and_ends(hosts, tmp_path):
    """Nobody is told of it by the network, as when a machine loses power."""
    status, output, seconds = lost(hosts, tmp_path, hosts.cut_the_cable, 0)
    assert status == 1, output
    assert seconds < 1.5 * HEARTBEAT_SECONDS
    assert re.search(rf"error: .*rank 1 on host {hosts.names[1]} is gone: no sign of life", output), output


def test_a_signal_on_one_host_stops_both_with_a_checkpoint(hosts, tmp_path):
    job, _ = job_of(hosts, tmp_path, 10**6, STEPS_PER_CHECKPOINT=10**6)
    log = tmp_path / "out" / "dllogger.json"
    with job:
        job.wait_until(lambda: log.exists() and len(curve(tmp_path / "out")) >= 3)
        os.kill(job.pid(1), signal.SIGTERM)
        statuses = job.wait(PATIENCE)
    assert statuses == [75, 75], job.output(0) + job.output(1)
    (saved,) = find_checkpoints(tmp_path / "out")
    assert f"stopped by a signal to another rank after step {saved[0]} of 1000000" in job.output(0)
