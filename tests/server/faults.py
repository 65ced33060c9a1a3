# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real daemon dies, or its disk fails, at the N-th call of each kind: strace does it.

Afterwards a new daemon has to have every change and every mark that was acknowledged, in exact
bitmaps, and the container may have leaks at most.  With the argument "all" every N is tried,
without it one of a few, at random.
"""

import os
import random
import shutil
import subprocess
import sys
import time

from wire import *

SEED = int(os.environ.get("BITMAPD_TEST_SEED", time.time()))
CALLS = "pwrite64,fdatasync,rename"
BITMAPCTL = os.environ["BITMAPCTL"]


class Injected(Daemon):
    """A daemon under strace, which may die at any moment, even before it listens."""

    def __init__(self, directory, injection):
        super().__init__(directory=directory)
        self.arguments = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + CALLS,
                          "-e", "inject=" + injection] + self.arguments

    def attempt(self):
        try:
            self.start()
            return self.client(timeout=20)
        except (AssertionError, Closed, BrokenPipeError, ConnectionRefusedError,
                FileNotFoundError):
            return None

    def end(self):
        """kill -9 for whatever is left: strace's child ends with its tracer's detach only."""
        children = "/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)
        try:
            with open(children) as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass
        self.process.wait(20)
        self.log.close()


def work(client, acknowledged, marks):
    drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 30)))
    acknowledged.append("d")
    for i in range(6):
        name = "d/b%d" % i
        client.must(BITMAP_CREATE, bitmap_create(name))
        acknowledged.append(name)
        client.must(MARK, mark(drive, [(i << 20, 1)]))
        marks += [(bitmap, i << 20) for bitmap in acknowledged[1:]]
        if i % 2:
            client.must(FLUSH)


def trial(injection):
    directory = tempfile.mkdtemp(prefix="bitmapd-faults-")
    acknowledged, marks = [], []
    daemon = Injected(directory, injection)
    client = daemon.attempt()
    if client:
        try:
            work(client, acknowledged, marks)
        except (Closed, BrokenPipeError, AssertionError, TimeoutError):
            pass  # dead, or an error was told: that was no acknowledgement
    daemon.end()

    container = os.path.join(directory, "bitmaps.qcow2")
    if os.path.exists(container):
        result = subprocess.run([BITMAPCTL, "container", "check", container], capture_output=True)
        assert result.returncode in (0, 3), (injection, result)
    with Daemon(directory=directory) as again:
        client = again.client()
        for name in acknowledged:
            operation = BITMAP_SHOW if "/" in name else DRIVE_SHOW
            status, body = client.call(operation, text(name))
            assert status == OK, (injection, "lost", name)
            assert b"cleanly" not in body, (injection, "unknown", name, body)
        for name, offset in marks:
            runs = client.map(name)
            assert any(start <= offset < start + length for start, length in runs), \
                (injection, "lost mark", name, offset)
    shutil.rmtree(directory)
    return len(acknowledged)


def main():
    if not shutil.which("strace"):
        assert os.environ.get("CI") != "true", "strace is missing"
        print("strace is missing: skipped")
        return 77
    print("BITMAPD_TEST_SEED=%d" % SEED)
    rng = random.Random(SEED)
    count = complete = 0
    for call, last in (("fdatasync", 40), ("pwrite64", 70), ("rename", 3)):
        for effect in ("signal=SIGKILL", "error=EIO", "error=ENOSPC"):
            every = range(1, last + 1)
            chosen = every if sys.argv[1:] == ["all"] else sorted(rng.sample(every, min(6, last)))
            for n in chosen:
                complete += trial("%s:%s:when=%d" % (call, effect, n)) == 7
                count += 1
    print("%d trials, of which %d ran to their end" % (count, complete))
    assert 0 < complete < count
    return 0


sys.exit(main())
