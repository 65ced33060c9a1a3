# SPDX-License-Identifier: LGPL-2.1-or-later
"""A system of its own under a real systemd: this host's files under an overlay that takes all
writes, booted by systemd-nspawn.  Nothing of the host is changed, and nothing of it runs in there."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "e2e")]

from programs import Process, run, spawn, wait_until  # noqa: E402


def children(pid):
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for child in file.read().split():
                yield int(child)
                yield from children(int(child))


def new_cgroups(name):
    """Makes one in each hierarchy that a manager uses.  What systemd-nspawn makes by itself would be
    every machine's, with all that another one has left there."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        ours = dict(line.strip().split(":", 2)[1:] for line in file)
    made = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, after = line.split(" - ")
            kind, _, options = after.split()[:3]
            key = "" if kind == "cgroup2" else "name=systemd"
            if key in ours and (kind == "cgroup2" or kind == "cgroup" and key in options.split(",")):
                made.append(f"{before.split()[4]}{ours[key].rstrip('/')}/{name}")
                os.mkdir(made[-1])
    return made


def remove_cgroup(path):
    """Once all that was in it has ended."""
    def removed():
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not os.path.exists(path)

    wait_until(removed, f"{path} is empty")


def packages(patterns):
    """Those to install; symbols for debuggers are not."""
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    return [path for path in found if "-dbgsym_" not in path]


def is_init(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return line.split()[1:][-1] == "1" and len(line.split()) > 2
    return False


# Nodes that a container has not; whoever enters it from this host may use them all the same.
NODES = (("fuse", "c", 10, 229), ("kmsg", "c", 1, 11), ("loop-control", "c", 10, 237),
         *((f"loop{i}", "b", 7, i) for i in range(32)))


class Machine(contextlib.ExitStack):
    def __init__(self, *binds):
        """@binds: options of systemd-nspawn's for what else is to be seen in there."""
        super().__init__()
        self.binds = binds

    def __enter__(self):
        super().__enter__()
        try:
            self.make()
        except BaseException:
            self.close()
            raise
        return self

    def make(self):
        self.directory = tempfile.mkdtemp(prefix="bitmapd-machine-")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        scratch = self.mount("scratch", "-t", "tmpfs", "-o", "size=2g,mode=0755", "none")
        upper, work = (os.path.join(scratch, name) for name in ("upper", "work"))
        os.mkdir(upper)
        os.mkdir(work)
        self.root = self.mount("root", "-t", "overlay", "-o",
                               f"lowerdir=/,upperdir={upper},workdir={work}", "none")
        self.init = self.nspawn = None
        self.boots = 0
        self.name = f"bitmapd-test-{os.getpid()}"
        self.cgroups = new_cgroups(self.name)
        for path in self.cgroups:
            self.callback(remove_cgroup, path)
        self.callback(self.kill)
        self.tidy()

    def mount(self, name, *arguments):
        path = os.path.join(self.directory, name)
        os.mkdir(path)
        run("mount", *arguments, path)
        self.callback(run, "umount", "--lazy", path, check=False)
        return path

    def tidy(self):
        """Nothing of the host's services, and none of its traces of bitmapd."""
        for folder in ("dev", "etc/systemd/system/multi-user.target.wants",
                       "etc/systemd/system/timers.target.wants", "var/lib/bitmapd",
                       "var/log/journal"):
            path = os.path.join(self.root, folder)
            for name in os.listdir(path) if os.path.isdir(path) else ():
                whole = os.path.join(path, name)
                if os.path.isdir(whole) and not os.path.islink(whole):
                    shutil.rmtree(whole, ignore_errors=True)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(whole)
        # Where the host is a container itself, the first keeps packages from starting services; the
        # second has all manual pages indexed anew with each package.
        for path in ("usr/sbin/policy-rc.d", "var/lib/man-db/auto-update"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.root, path))
        self.write("etc/dpkg/dpkg.cfg.d/bitmapd-test", "force-unsafe-io\n")
        for path in ("etc/machine-id", "etc/fstab"):
            self.write(path, "")

    def write(self, path, content):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)

    def boot(self):
        log = os.path.join(self.directory, f"boot-{self.boots}.log")
        self.boots += 1
        # Devices are kept from units by BPF programs, for which their manager needs cgroups of the
        # second version, the system call, and the rights over a network.
        enter = "".join(f"echo $$ >{path}/cgroup.procs && " for path in self.cgroups)
        self.nspawn = Process("nspawn", log, [
            "sh", "-c", enter + 'exec "$@"', "sh",
            "systemd-nspawn", "--quiet", "--directory", self.root, "--boot", "--register=no",
            "--keep-unit", "--private-network", "--system-call-filter=bpf", *self.binds,
            f"--machine={self.name}"],
            dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1"))

        def up():
            self.nspawn.check_running()
            self.init = next(filter(is_init, children(self.nspawn.popen.pid)), None)
            return self.init and self.run(
                "systemctl", "is-system-running", check=False).stdout.strip() in (
                    "running", "degraded")

        wait_until(up, "the system boots")
        for name, kind, major, minor in NODES:
            self.run("sh", "-c", f"[ -e /dev/{name} ] || "  # newer ones give a container some
                     f"mknod --mode=600 /dev/{name} {kind} {major} {minor}")

    def install(self, packages):
        for path in packages:
            shutil.copy(path, self.root)
        self.run("dpkg", "-i", *("/" + os.path.basename(path) for path in packages))

    def power_off(self):
        self.run("systemctl", "poweroff")
        self.nspawn.wait()
        self.init = None

    def kill(self):
        """For the way out.  systemd-nspawn goes with the first process of its namespace, and that
        takes all others along; it does not go with systemd-nspawn."""
        if self.nspawn and self.nspawn.running():
            init = self.init or next(filter(is_init, children(self.nspawn.popen.pid)), None)
            if init:
                os.kill(init, signal.SIGKILL)
                self.nspawn.wait()
            else:
                self.nspawn.kill()

    def run(self, *command, check=True, **options):
        return run("nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid",
                   "--net", "--root", "--wd", "--", *command, check=check, **options)

    def start(self, *command):
        """In the background, for what goes on beside it."""
        return spawn(
            ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--pid", "--net",
             "--root", "--wd", "--", *command], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def tell(self):
        """What its journal ends with, for a test that has failed."""
        if self.init:
            result = self.run("journalctl", "--no-pager", "-n", "80", check=False)
            print(result.stdout, file=sys.stderr)

    def property(self, unit, name):
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def pid(self, unit):
        """As this host numbers it."""
        inside = self.property(unit, "MainPID")
        for child in children(self.init):
            with contextlib.suppress(OSError), \
                    open(f"/proc/{child}/status", encoding="utf-8") as file:
                if f"\t{inside}\n" in next(line for line in file if line.startswith("NSpid:")):
                    return child
        return None

    def path(self, inside):
        """Of what is mounted in there too, as /run is."""
        return f"/proc/{self.init}/root{inside}"
