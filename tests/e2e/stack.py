# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the end-to-end tests run: a daemon, nbdkit with the plugin, and the disks
around them, all in a scratch directory, all ended and removed with the test,
however it ends.

The programs come from the environment: BITMAPD, BITMAPCTL, BITMAPD_PLUGIN, and
BITMAPD_PRELOAD for a sanitizer's runtime that nbdkit itself is not linked with.
BITMAPD_TEST_UNIT names an instance of the packaged unit that the daemon is to be.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import unit
from disks import Disks, sync_device
from programs import (
    WAIT_S, Process, accepts, need_root, need_tools, run, skip, wait_until)

__all__ = ["WAIT_S", "Stack", "accepts", "need_root", "need_tools", "run", "seed", "skip",
           "sync_device", "wait_until"]

HERE = os.path.dirname(os.path.abspath(__file__))
UNIT = os.environ.get("BITMAPD_TEST_UNIT")


def seed():
    """What all chance in a test comes from; it is printed, and can be given."""
    value = int(os.environ.get("BITMAPD_TEST_SEED", random.randrange(1 << 32)))
    print(f"BITMAPD_TEST_SEED={value}")
    return value


class Stack(Disks):
    def __enter__(self):
        # A time-out of CTest's comes as a SIGTERM at best: leave in order.
        signal.signal(signal.SIGTERM, lambda *unused: sys.exit(1))
        self.directory = tempfile.mkdtemp(prefix="bitmapd-e2e-")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.state_directory = self.directory
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

    def launch_daemon(self, *options):
        """One that may not answer yet."""
        if self.daemon is None:
            # One that was restarted is still ended after all that depends on it.
            self.callback(lambda: self.daemon.end())
        command = [os.environ["BITMAPD"], "--state-dir", self.state_directory, *options]
        if UNIT:
            self.give(self.directory)
            self.give(self.state_directory)
            self.daemon = unit.Unit(UNIT, self.path("bitmapd.log"), command)
            self.processes.append(self.daemon)
        else:
            self.daemon = self.start("bitmapd", command, end=False)

    def give(self, directory):
        """To the user that the daemon is."""
        if UNIT:
            unit.give(directory)

    def start_daemon(self, *options):
        self.launch_daemon(*options)

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

    def ctl(self, *arguments, **options):
        return run(os.environ["BITMAPCTL"], "-s", self.socket, *arguments, **options)

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

    # ---- The proof ----

    def compare(self, before, after, bitmap, quiet=False):
        """Every granule that differs has to be dirty.  Returns the counts."""
        granularity = self.ctl_json("bitmap", "show", bitmap)["granularity"]
        map_path = self.path("map.json")
        with open(map_path, "w", encoding="utf-8") as file:
            file.write(self.ctl("-o", "json", "map", bitmap).stdout)
        result = run(
            sys.executable, "-B", os.path.join(HERE, "compare_granules.py"), "--json",
            before, after, map_path, str(granularity))
        counts = json.loads(result.stdout)
        if not quiet:
            print(f"{bitmap}: {counts}")
        return counts
