#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a service manager is told, when all is well and when a disk is slow."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from wire import *

MIB = 1 << 20
BITMAPD = os.environ["BITMAPD"]
WAIT_S = 60


class Manager:
    """Starts a daemon and notes what it is told, message by message."""

    def __init__(self, prefix=()):
        self.prefix = prefix

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="bitmapd-manager-")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.directory + "/notify")
        self.told = []
        self.changed = threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()
        environment = dict(os.environ, NOTIFY_SOCKET=self.directory + "/notify",
                           WATCHDOG_USEC="200000")
        environment.pop("WATCHDOG_PID", None)
        self.process = spawn(
            [*self.prefix, BITMAPD, "--state-dir", self.directory + "/state"], env=environment,
            stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        shutil.rmtree(self.directory)

    def listen(self):
        while True:
            message = self.socket.recv(4096).decode()
            with self.changed:
                self.told.append(message)
                self.changed.notify_all()

    def wait_for(self, words, since=0):
        """The number of the first message with those words."""
        def find():
            return next((number for number, message in enumerate(self.told)
                         if number >= since and words in message), None)
        with self.changed:
            assert self.changed.wait_for(lambda: find() is not None, WAIT_S), (words, self.told)
            return find()

    def client(self):
        return Client(self.directory + "/state/bitmapd.sock")


def readiness_and_stopping():
    with Manager() as manager:
        ready = manager.wait_for("READY=1")
        assert "Tracking: 0 drives" in manager.told[ready], manager.told
        # Ready means that it listens and answers.
        client = manager.client()
        client.must(DRIVE_ADD, drive_add("d", MIB))
        assert {"bitmapd.sock", "bitmaps.qcow2", "journal.0", "journal.1"} <= \
            set(os.listdir(manager.directory + "/state"))
        # A change of the status is told once, the watchdog's ping again and again.
        tracking = manager.wait_for("Tracking: 1 drives")
        manager.wait_for("WATCHDOG=1", manager.wait_for("WATCHDOG=1", tracking) + 1)
        for reload in (lambda: client.must(RELOAD),
                       lambda: manager.process.send_signal(signal.SIGHUP)):
            since = len(manager.told)
            reload()
            begins = manager.wait_for("RELOADING=1", since)
            assert "MONOTONIC_USEC=" in manager.told[begins]
            manager.wait_for("READY=1", begins)
        assert sum("Tracking: 1 drives" in message for message in manager.told) == 1
        # Not before it is written back: it is the last word.
        manager.process.terminate()
        manager.wait_for("STOPPING=1")
        assert manager.process.wait(WAIT_S) == 0
        assert manager.told[-1] == "STOPPING=1", manager.told
        assert not os.path.exists(manager.directory + "/state/bitmapd.sock")


def a_slow_disk():
    """Each thread's first write and sync take seconds: starts and ends tell, the watchdog does not notice."""
    if not shutil.which("strace"):
        assert os.environ.get("CI") != "true", "strace is missing"
        print("strace is missing: skipped")
        return
    slow = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync", "-e",
            "inject=pwrite64,fdatasync:delay_enter=2500000:when=1"]
    with Manager(slow) as manager:
        ready = manager.wait_for("READY=1")
        before = "\n".join(manager.told[:ready])
        assert "STATUS=" in before and "EXTEND_TIMEOUT_USEC=" in before, before
        assert "WATCHDOG=1" not in before, before
        client = manager.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))  # waits for the journal
        client.must(BITMAP_CREATE, bitmap_create("d/a"))
        client.must(MARK, mark(drive, [(0, 1)]))
        waited = sum("WATCHDOG=1" in message for message in manager.told)
        assert waited >= 5, manager.told
        since = len(manager.told)
        manager.process.terminate()
        stopping = manager.wait_for("STOPPING=1", since)
        during = "\n".join(manager.told[since:stopping])
        for words in ("STATUS=", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC="):
            assert words in during, manager.told[since:]
        assert manager.process.wait(WAIT_S) == 0


if __name__ == "__main__":
    run([readiness_and_stopping, a_slow_disk])
    sys.exit(0)
