"""A systemd of its own: PID 1 of namespaces over a copy of this machine's files, so that the units are tried by who will run them.

Nothing of it is seen outside: files are an overlay, the network is a new one, its processes end with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.peers.process import Peer, PeerFailedError, PeerMissingError
from tests.support.processes import ROOT, children_of, wait_until

BINARY = Path("/usr/lib/systemd/systemd")
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""This interpreter, as the machine sees it: the unit hides home directories, where one may be."""
LIBRARIES = "/opt/python/lib"
"""Where an interpreter that was moved finds its own library and not the machine's."""
TARGETS = "sysinit basic shutdown umount sockets network network-online multi-user local-fs paths slices timers final exit reboot poweroff"

OUTSIDE = """
mkdir "$CGROUP" && echo $$ > "$CGROUP/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup --propagation private sh -eu "$INSIDE"
"""
INSIDE = """
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
root="$PLACE/root"
mount -t overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in run dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$folder"; done
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for node in null zero full random urandom tty; do : > "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"; ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
: > "$root/dev/console"; mount --bind "$CONSOLE" "$root/dev/console"
mkdir -p "$root/opt/meshproxy" "$root/opt/site" "$root/opt/python"
mount --bind "$CHECKOUT" "$root/opt/meshproxy"; mount --bind "$SITE" "$root/opt/site"; mount --bind "$PYTHON" "$root/opt/python"
rm -rf "$root/etc/systemd/system" "$root/etc/meshproxy"
mkdir -p "$root/etc/systemd/system" "$root/etc/meshproxy"
cp "$CHECKOUT"/conf/systemd/* "$root/etc/systemd/system"
for target in $TARGETS; do cp "/usr/lib/systemd/system/$target.target" "$root/etc/systemd/system"; done
cp /usr/lib/systemd/system/systemd-journald* "$root/etc/systemd/system"
cp "$LAUNCHER" "$root/usr/local/bin/meshproxy"
chroot "$root" useradd --system --no-create-home --shell /usr/sbin/nologin meshproxy
cd "$root"; mkdir old; pivot_root . old; umount -l /old; hostname meshproxy-trial
exec env -i container=trial PATH=/usr/local/bin:/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    "$BINARY" --system --unit=multi-user.target --log-target=console --show-status=no
"""


class Systemd(Peer):
    """Raises PeerMissingError where it cannot be had. `run` runs a command in its machine; meshproxy is on the PATH there."""

    name = "systemd"
    stop_signal = 9

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        if reason := why_not():
            raise PeerMissingError(reason)
        self.cgroup = cgroup_root() / f"meshproxy-test-{os.getpid()}"

    def command(self) -> list[str]:
        (self.directory / "place").mkdir()
        (self.directory / "console").touch()
        launcher = self._write(
            "launcher",
            f"#!/bin/sh\nLD_LIBRARY_PATH={LIBRARIES} PYTHONPATH=/opt/meshproxy:/opt/site PYTHONDONTWRITEBYTECODE=1 exec {PYTHON} "
            "-c 'from meshproxy.cli.main import main; main()' \"$@\"\n",
        )
        launcher.chmod(0o755)
        self._write("inside.sh", INSIDE)
        return ["sh", "-eu", str(self._write("outside.sh", OUTSIDE))]

    def _write(self, name: str, text: str) -> Path:
        (self.directory / name).write_text(text)
        return self.directory / name

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "CGROUP": str(self.cgroup), "INSIDE": str(self.directory / "inside.sh"),
            "PLACE": str(self.directory / "place"), "CONSOLE": str(self.directory / "console"), "CHECKOUT": str(ROOT),
            "SITE": sysconfig.get_path("purelib"), "PYTHON": sys.base_prefix, "LAUNCHER": str(self.directory / "launcher"),
            "TARGETS": TARGETS, "BINARY": str(BINARY),
        }  # fmt: skip

    def ports(self) -> list[int]:
        return []

    def wait_ready(self) -> None:
        """Runs, and what services print is in the journal from the first line on."""
        if not wait_until(lambda: self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"), 30, self.pid):
            console = (self.directory / "console").read_text()
            raise PeerFailedError(f"systemd does not run:\n{self.output()[-2000:]}\n{console[-2000:]}")
        self.run("systemctl", "start", "systemd-journald")

    def run(self, *command: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command in the machine; fails with 1 while it is not there yet."""
        inside = children_of(self.pid)
        if not inside:
            return subprocess.CompletedProcess(command, 1, "", "not started")
        enter = ["nsenter", "-t", str(inside[0]), "-a", "-r", "-w"]
        clean = ["env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin", f"LD_LIBRARY_PATH={LIBRARIES}"]
        return subprocess.run([*enter, *clean, *command], capture_output=True, text=True, timeout=limit_s)

    def stop(self) -> None:
        super().stop()
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            wait_until(lambda folder=folder: _removed(folder), 10)


def _removed(cgroup: str) -> bool:
    """A cgroup goes when its last process is reaped."""
    try:
        os.rmdir(cgroup)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def cgroup_root() -> Path:
    """Where cgroup2 is mounted; the hybrid layout has it below `unified`."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(place)
    raise PeerMissingError("no cgroup2 is mounted")


def why_not() -> str:
    """What is missing for it; "" = nothing."""
    if os.geteuid() != 0:
        return "only root can start a systemd of its own"
    if not BINARY.exists():
        return "systemd is not installed: apt-get install systemd (scripts/setup --test does)"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "--cgroup", "true"], capture_output=True, text=True)
    return f"namespaces cannot be had: {tried.stderr.strip()}" if tried.returncode else ""
