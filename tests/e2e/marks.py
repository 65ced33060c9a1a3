# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon whose state is on a small disk, a drive that nobody writes to, and marks of
which it is known whether they were acknowledged."""

import contextlib
import threading
import time

from programs import wait_until
from small_disk import SmallDisk

GRANULE = 65536
SIZE = 1 << 40
CHUNKS = 32  # of the bitmap, a cluster each
GRANULES_PER_CHUNK = SIZE // GRANULE // CHUNKS
NS_PER_S = 1_000_000_000


def expect_failure(result, causes):
    assert result.returncode == 1, result
    assert any(cause in result.stderr for cause in causes), result


class Marks:
    def __init__(self, stack, interval="1h", **disk_options):
        self.stack = stack
        self.disk = SmallDisk(stack, **disk_options)
        self.config = stack.path("bitmapd.yaml")
        self.configure(interval)
        self.tried = set()
        self.acknowledged = set()
        self.next = 0
        self.start_daemon()
        stack.ctl("drive", "add", "d", "--size", str(SIZE))
        stack.ctl("bitmap", "create", "d/b")
        self.began_ns = time.time_ns()

    def configure(self, interval, segment_size="8M"):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(
                f"socket:\n  path: {self.stack.socket}\n"
                f"flush:\n  interval: {interval}\n"
                f"journal:\n  segment_size: {segment_size}\n")

    def start_daemon(self):
        self.stack.start_daemon("--config", self.config)

    # ---- Marks ----

    def attempt(self, granules, *command, **options):
        self.tried.update(granules)
        result = self.stack.ctl("mark", "d", *command, check=False, **options)
        assert result.returncode in (0, 1), result
        if result.returncode == 0:
            self.acknowledged.update(granules)
        return result

    def mark(self, chunk=0):
        """A granule that no one has marked before."""
        granule = chunk * GRANULES_PER_CHUNK + self.next
        self.next += 1
        return self.attempt([granule], str(granule * GRANULE), "1")

    def must(self, chunk=0):
        result = self.mark(chunk)
        assert result.returncode == 0, result

    def must_fail(self, *causes):
        expect_failure(self.mark(), causes)

    def mark_much(self):
        """One MiB in the journal, and hardly anything in the bitmap."""
        granules = range(self.next, self.next + 16)
        self.next += len(granules)
        lines = "".join(f"{granule * GRANULE} 1\n" + "0 1\n" * 4095 for granule in granules)
        return self.attempt([0, *granules], "--stdin", input=lines)

    def fill_journal(self):
        """Until it takes no more, or the container helps it out; returns the last result."""
        for _ in range(40):
            result = self.mark_much()
            if result.returncode != 0:
                break
        return result

    @contextlib.contextmanager
    def going_on(self):
        """All over the drive, one after the other."""
        ended = threading.Event()

        def work():
            while not ended.is_set():
                self.mark(self.next % CHUNKS)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def check(self):
        """What was acknowledged is dirty, and what nobody has marked is not."""
        bitmap = self.stack.ctl_json("bitmap", "show", "d/b")
        assert bitmap["validity"] == "exact", bitmap
        dirty = set()
        for offset, length in self.stack.dirty_ranges("d/b"):
            dirty.update(range(offset // GRANULE, (offset + length) // GRANULE))
        assert self.acknowledged <= dirty, f"lost: {sorted(self.acknowledged - dirty)}"
        assert dirty <= self.tried, f"from nowhere: {sorted(dirty - self.tried)}"

    def check_after_kill(self, mount_again=False):
        """And it is still known to the next daemon."""
        self.stack.daemon.kill()
        if mount_again:
            self.disk.mount_again()
        self.start_daemon()
        self.check()
        assert self.stack.ctl_json("status")["unknown_bitmaps"] == 0

    # ---- How the daemon is ----

    def expect_flush_to_fail(self, *causes):
        expect_failure(self.stack.ctl("flush", check=False), causes)

    def expect_degraded(self, *causes):
        status = self.stack.ctl_json("status")
        assert status["degraded"], status
        assert any(cause in status["degraded_reason"] for cause in causes), status
        since_ns = status["degraded_since_ns"]
        assert self.began_ns <= since_ns <= time.time_ns(), status
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since_ns // NS_PER_S))
        text = self.stack.ctl("status").stdout
        assert f"degraded since {since}: " in text, text

    def expect_recovery(self):
        """Without help, and for good."""
        wait_until(lambda: self.mark().returncode == 0, "marks go on")
        wait_until(lambda: not self.stack.ctl_json("status")["degraded"], "it is well again")
        assert "running" in self.stack.ctl("status").stdout
        self.must()
        self.stack.ctl("flush")
        status = self.stack.ctl_json("status")
        assert not status["degraded"] and status["degraded_reason"] == "", status
        assert status["degraded_since_ns"] == 0, status
        assert status["applied_seq"] == status["sequence"], status
        self.check()
