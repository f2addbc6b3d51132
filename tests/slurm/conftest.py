"""A real Slurm on this machine: controller, three nodes with fake GPUs, no accounting (so no sacct).

Debian's packages slurmctld, slurmd, slurm-client and munge must be installed; with BATCH_ESTIMATOR_APT=1, and as root,
they are installed here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "scontrol", "srun", "sbatch")
READY_SECONDS = 30
JOB = """\
import torch, estimator
def job():
    return estimator.TrainingJob(model=lambda: torch.nn.Linear(8, 1), batch=lambda n: torch.randn(n, 8),
                                 loss=lambda m, b: m(b).mean(), optimizer="sgd")
"""
NODES = {
    "t1": ("gpu:a100:2", "a100,a100_40gb"),
    "t2": ("gpu:3", "tesla,t4"),
    "t3": ("", ""),
}


def installed() -> bool:
    return all(shutil.which(name) for name in PROGRAMS)


def install() -> str:
    """Install the packages where that is wanted; gives the reason why there is no Slurm, "" where there is one."""
    if installed():
        return ""
    if os.environ.get("BATCH_ESTIMATOR_APT") != "1":
        return f"not installed ({', '.join(PACKAGES)}); BATCH_ESTIMATOR_APT=1 installs them"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "installing Slurm needs root and apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], capture_output=True, text=True, env=environment, timeout=180)
    return "" if installed() else f"apt-get could not install it: {done.stderr.strip()[-200:]}"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(base: Path, host: str) -> dict[str, str]:
    """One controller and a daemon a node, all on this machine; GPUs are character devices that do nothing."""
    lines, gres = [], []
    for name, (gpus, features) in NODES.items():
        said = f" Gres={gpus} Feature={features}" if gpus else ""
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2 RealMemory=6000{said}"
        )
        if gpus:
            kind = f" Type={gpus.split(':')[1]}" if gpus.count(":") == 2 else ""
            gres.append(f"NodeName={name} Name=gpu{kind} File={base}/dev/{name}-[0-{int(gpus.split(':')[-1]) - 1}]")
    main = f"""\
ClusterName=ours
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
KillWait=3
SlurmctldPidFile={base}/ctld.pid
SlurmdPidFile={base}/%n.pid
SlurmdSpoolDir={base}/spool-%n
StateSaveLocation={base}/state
SlurmctldLogFile={base}/ctld.log
SlurmdLogFile={base}/%n.log
{chr(10).join(lines)}
PartitionName=gpu Nodes=t1,t2 Default=YES MaxTime=10 DefMemPerCPU=500 State=UP
PartitionName=cpu Nodes=t3 MaxTime=10 State=UP
"""
    return {"slurm.conf": main, "gres.conf": "\n".join(gres) + "\n", "cgroup.conf": "ConstrainDevices=no\n"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a Slurm that runs, with SLURM_CONF set to its configuration."""
    reason = install()
    if reason:
        pytest.skip(f"no Slurm: {reason}")
    if os.geteuid() != 0:
        pytest.skip("no Slurm: its daemons and device files need root")
    base = tmp_path_factory.mktemp("slurm")
    for folder in ("state", "dev", *(f"spool-{name}" for name in NODES)):
        (base / folder).mkdir()
    try:
        for name, (gpus, _) in NODES.items():
            for number in range(int(gpus.split(":")[-1]) if gpus else 0):
                os.mknod(base / "dev" / f"{name}-{number}", 0o666 | 0o020000, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no Slurm: device files cannot be made here ({error})")
    for name, text in configuration(base, socket.gethostname().split(".")[0]).items():
        (base / name).write_text(text)
    (base / "train.py").write_text(JOB)
    (base / "munge.key").write_bytes(os.urandom(128))
    (base / "munge.key").chmod(0o600)
    started = []
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", f"{base}/slurm.conf")
    commands = [
        ["munged", "--foreground", "--force", f"--socket={base}/munge.socket", f"--key-file={base}/munge.key",
         f"--pid-file={base}/munge.pid", f"--log-file={base}/munge.log", f"--seed-file={base}/munge.seed"],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", name] for name in NODES),
    ]  # fmt: skip
    try:
        for command in commands:
            log = (base / f"{command[0]}-{len(started)}.out").open("w")
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            time.sleep(0.5)
        wait_until_ready(base)
        yield base
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        patch.undo()


def wait_until_ready(base: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    told = ""
    while time.monotonic() < until:
        done = subprocess.run(["sinfo", "-h", "-o", "%t %D"], capture_output=True, text=True)
        told = done.stdout + done.stderr
        if done.returncode == 0 and {line.split()[0] for line in done.stdout.splitlines()} == {"idle"}:
            return
        time.sleep(0.5)
    logs = {log.name: log.read_text()[-300:] for log in base.glob("*.out")}
    pytest.skip(f"no Slurm: it does not come up here: {told.strip()} {logs}")
