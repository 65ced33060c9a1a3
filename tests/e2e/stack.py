# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the end-to-end tests run: a daemon, nbdkit with the plugin, an NBD export
as a file, loop devices and mounts, all in a scratch directory, all ended and
removed with the test, however it ends.

The programs come from the environment: BITMAPD, BITMAPCTL, BITMAPD_PLUGIN, and
BITMAPD_PRELOAD for a sanitizer's runtime that nbdkit itself is not linked with.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WAIT_S = 60  # for what has to happen; then the test fails
HERE = os.path.dirname(os.path.abspath(__file__))
PR_SET_PDEATHSIG = 1


def skip(words):
    """Ends the test as skipped, or as failed where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        print(f"FAILED: {words}, and CI has to have it", file=sys.stderr)
        sys.exit(1)
    print(f"SKIPPED: {words}")
    sys.exit(77)


def need_tools(*tools):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        skip(f"not installed: {' '.join(missing)}")


def need_root():
    if os.geteuid() != 0:
        skip("loop devices and mounts need root")


def wait_until(condition, what):
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {WAIT_S} s in vain: {what}")
        time.sleep(0.01)


def run(*command, check=True, **options):
    """Runs a program; its output is the result's."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
        check=False, **options)
    if check and result.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def sync_device(device):
    """Flushes a block device, its own cache too, which unmounting does not promise."""
    fd = os.open(device, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program in the background whose stderr goes to a file."""

    def __init__(self, name, log, command, env=None):
        self.name = name
        self.log = log
        with open(log, "ab") as file:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env,
                preexec_fn=die_with_parent)

    def running(self):
        return self.popen.poll() is None

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def check_running(self):
        if not self.running():
            raise AssertionError(
                f"{self.name} ended with {self.popen.returncode}:\n{self.text()}")

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self):
        return self.popen.wait(timeout=WAIT_S)

    def stop(self):
        """Asks it to end, and expects success."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"{self.name}: exit {code} after SIGTERM:\n{self.text()}"

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait()

    def end(self):
        """For the way out: whatever it takes."""
        if self.running():
            self.signal(signal.SIGTERM)
            try:
                self.popen.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()


class Stack(contextlib.ExitStack):
    def __enter__(self):
        # A time-out of CTest's comes as a SIGTERM at best: leave in order.
        signal.signal(signal.SIGTERM, lambda *unused: sys.exit(1))
        self.directory = tempfile.mkdtemp(prefix="bitmapd-e2e-")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.socket = self.path("bitmapd.sock")
        self.daemon = None
        self.processes = []
        super().__enter__()
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None and kind is not SystemExit:
            for process in self.processes:
                print(f"---- {process.name} ----\n{process.text()}", file=sys.stderr)
        return super().__exit__(kind, value, traceback)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, name, command, env=None, end=True):
        log = self.path(f"{name}-{len(self.processes)}.log")
        process = Process(name, log, command, env)
        self.processes.append(process)
        if end:
            self.callback(process.end)
        return process

    # ---- The daemon ----

    def start_daemon(self, *options):
        if self.daemon is None:
            # One that was restarted is still ended after all that depends on it.
            self.callback(lambda: self.daemon.end())
        self.daemon = self.start(
            "bitmapd", [os.environ["BITMAPD"], "--state-dir", self.directory, *options], end=False)

        def ready():
            self.daemon.check_running()
            return self.ctl("status", check=False).returncode == 0

        wait_until(ready, "bitmapd answers")
        return self.daemon

    def daemon_stops(self):
        self.daemon.stop()

    def daemon_dies(self):
        self.daemon.kill()

    def restart_daemon(self):
        self.daemon_stops()
        self.start_daemon()

    def ctl(self, *arguments, check=True):
        return run(os.environ["BITMAPCTL"], "-s", self.socket, *arguments, check=check)

    def ctl_json(self, *arguments):
        return json.loads(self.ctl("-o", "json", *arguments).stdout)

    def dirty_ranges(self, bitmap):
        """[(offset, length)] of the dirty runs."""
        return [
            (entry["offset"], entry["length"])
            for entry in self.ctl_json("map", bitmap) if entry["type"] == 1]

    def unsettled(self, drive):
        return self.ctl_json("drive", "show", drive)["unsettled"]

    # ---- Drives ----

    def make_raw(self, name, size):
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def add_drive(self, name, raw, granularity="64K"):
        self.ctl("drive", "add", name, "--path", raw, "--granularity", granularity)
        self.ctl("bitmap", "create", f"{name}/b")

    # ---- nbdkit ----

    def nbdkit_command(self, raw, drive, *parameters, name="nbdkit", options=()):
        return [
            "nbdkit", "--foreground", "--unix", self.path(f"{name}.sock"),
            "--pidfile", self.path(f"{name}.pid"), *options,
            os.environ["BITMAPD_PLUGIN"], f"file={raw}", f"drive={drive}",
            f"socket={self.socket}", *parameters]

    def nbdkit_env(self):
        env = dict(os.environ)
        preload = env.pop("BITMAPD_PRELOAD", "")
        if preload:
            env["LD_PRELOAD"] = preload
            env["ASAN_OPTIONS"] = "detect_leaks=0"  # nbdkit's own are not ours to count
        return env

    def start_nbdkit(self, raw, drive, *parameters, name="nbdkit", options=(), under=()):
        """@under: a command that runs nbdkit in its own place."""
        path = self.path(f"{name}.sock")
        pidfile = self.path(f"{name}.pid")
        for old in (path, pidfile):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(old)
        process = self.start(
            name,
            [*under, *self.nbdkit_command(raw, drive, *parameters, name=name, options=options)],
            self.nbdkit_env())
        process.socket = path
        process.uri = f"nbd+unix:///?socket={path}"

        def ready():
            process.check_running()
            return os.path.exists(pidfile)  # written when it takes connections

        wait_until(ready, "nbdkit listens")
        return process

    def run_nbdkit(self, raw, drive, *parameters):
        """Runs nbdkit where it is expected to refuse; kills it if it does not."""
        process = self.start(
            "nbdkit-refused", self.nbdkit_command(raw, drive, *parameters, name="refused"),
            self.nbdkit_env())
        try:
            code = process.popen.wait(timeout=WAIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise AssertionError("nbdkit started, which it should not have") from error
        return code, process.text()

    # ---- The export as a file, a loop device, a file system ----

    def start_fuse(self, nbdkit):
        """Returns (process, path of the file)."""
        mountpoint = self.path("fuse")
        os.makedirs(mountpoint, exist_ok=True)
        path = os.path.join(mountpoint, "drive")
        process = self.start("nbdfuse", ["nbdfuse", path, nbdkit.uri])

        def ready():
            if not process.running() and "fuse" in process.text():
                skip(f"FUSE does not work here: {process.text().strip()}")
            process.check_running()
            return os.path.exists(path)

        wait_until(ready, "nbdfuse shows the drive")
        self.callback(run, "umount", "-l", mountpoint, check=False)
        return process, path

    def stop_fuse(self, process):
        run("umount", self.path("fuse"))
        process.wait()

    def attach_loop(self, path):
        result = run("losetup", "--find", "--show", path, check=False)
        if result.returncode != 0:
            skip(f"no loop device: {result.stderr.strip()}")
        device = result.stdout.strip()
        self.callback(run, "losetup", "-d", device, check=False)
        return device

    def detach_loop(self, device):
        run("losetup", "-d", device)

        def gone():
            return device not in run("losetup", "-a").stdout.replace(":", " ").split()

        wait_until(gone, f"{device} is free")

    def mount(self, device):
        mountpoint = self.path("mnt")
        os.makedirs(mountpoint, exist_ok=True)
        result = run("mount", device, mountpoint, check=False)
        if result.returncode != 0:
            skip(f"mounting does not work here: {result.stderr.strip()}")
        self.callback(run, "umount", "-l", mountpoint, check=False)
        return mountpoint

    def umount(self, mountpoint):
        run("umount", mountpoint)

    # ---- The proof ----

    def copy(self, raw, name="before"):
        """A copy of the drive as it is now."""
        path = self.path(name)
        run("cp", "--sparse=always", "--reflink=auto", raw, path)
        return path

    def compare(self, before, after, bitmap):
        """Every granule that differs has to be dirty.  Returns the counts."""
        granularity = self.ctl_json("bitmap", "show", bitmap)["granularity"]
        map_path = self.path("map.json")
        with open(map_path, "w", encoding="utf-8") as file:
            file.write(self.ctl("-o", "json", "map", bitmap).stdout)
        result = run(
            sys.executable, "-B", os.path.join(HERE, "compare_granules.py"), "--json",
            before, after, map_path, str(granularity))
        counts = json.loads(result.stdout)
        print(f"{bitmap}: {counts}")
        return counts
