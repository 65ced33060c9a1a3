# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs: run to their end, or in the background; and what a test does without one."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

WAIT_S = 60  # for what has to happen; then the test fails
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # once: between fork and exec another thread may have left a lock taken


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


def run(*command, check=True, timeout=120, **options):
    """Runs a program; its output is the result's."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
        check=False, **options)
    if check and result.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def accepts(path):
    """Whether a server listens there already: its socket is in the file system before it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, preexec_fn=None, **options):
    """A program in the background that does not outlive the test, however that ends: it would keep
    the test's output open, for which CTest waits."""
    def prepare():
        if preexec_fn:
            preexec_fn()
        die_with_parent()  # what changes the user takes this back

    return subprocess.Popen(command, preexec_fn=prepare, **options)


class Process:
    """A program in the background whose stderr goes to a file."""

    def __init__(self, name, log, command, env=None):
        self.name = name
        self.log = log
        with open(log, "ab") as file:
            self.popen = spawn(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)

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
