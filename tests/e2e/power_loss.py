#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file system loses its power: whatever was not synced is gone.  Only the daemon's
state is on it at first, then the drive too, which forgets writes that its clients
had not flushed: what then differs from a copy of before is dirty as well.

BITMAPD_TEST_ROUNDS says how often the power is lost there."""

import os
import random
import signal
import time

import clients
import small_disk
import stack as e2e
from marks import CHUNKS, Marks

FAILED = ("Input/output error", "Read-only file system")
ROUNDS = 6


def test_state(stack):
    marks = Marks(stack)
    stack.ctl("flush")
    for chunk in range(CHUNKS):
        marks.must(chunk)
    marks.disk.lose_power()
    for _ in range(2):
        marks.must_fail(*FAILED)
    marks.expect_flush_to_fail(*FAILED)
    marks.expect_degraded(*FAILED)
    marks.check()
    stack.daemon.check_running()
    marks.check_after_kill(mount_again=True)
    marks.expect_recovery()


def test_state_while_marks_and_flushes_go_on(stack, rng):
    marks = Marks(stack, interval="100ms")
    for _ in range(3):
        with marks.going_on():
            time.sleep(rng.uniform(0.1, 0.6))
            marks.disk.lose_power()
        marks.check_after_kill(mount_again=True)
    marks.expect_recovery()


class Drive:
    """A raw drive beside the daemon's state, and clients that write to it."""

    def __init__(self, stack, rng):
        self.stack = stack
        self.random = rng
        self.marks = Marks(stack, interval="200ms", mebibytes=160)
        self.raw = stack.make_raw(self.marks.disk.path("raw"), clients.SIZE)
        stack.add_drive("vm1", self.raw, "4K")
        self.nbdkit = stack.start_nbdkit(self.raw, "vm1")
        self.before = None

    def validity(self):
        return self.stack.ctl_json("bitmap", "show", "vm1/b")["validity"]

    def begin(self):
        """The bitmap begins anew, and the drive is copied."""
        self.stack.ctl("bitmap", "clear", "vm1/b", "--all")
        self.before = self.stack.copy(self.raw)

    def lose_power(self, standing_still):
        assert self.stack.unsettled("vm1") == 0
        self.begin()
        assert self.validity() == "exact"
        writers = clients.start_writers(self.nbdkit.socket, self.random.randrange(1 << 32))
        if standing_still:
            # What the clients have not flushed is in the copy, and will not be on the drive.
            self.nbdkit.signal(signal.SIGSTOP)
            self.begin()
        else:
            time.sleep(self.random.uniform(0, 0.2))
        self.marks.disk.lose_power()
        for process in self.random.sample((self.nbdkit, self.stack.daemon), 2):
            process.kill()
        for writer in writers:
            writer.join()
        self.marks.disk.mount_again()

    def come_back(self):
        """Returns what the comparison has counted."""
        self.marks.start_daemon()
        counts = self.stack.compare(self.before, self.raw, "vm1/b")
        assert counts["dirty"] < counts["granules"], "all dirty proves nothing"
        assert self.validity() == "exact"
        self.nbdkit = self.stack.start_nbdkit(self.raw, "vm1")
        return counts


def test_drive_and_state(stack, rng):
    drive = Drive(stack, rng)
    changed = 0
    for number in range(int(os.environ.get("BITMAPD_TEST_ROUNDS", ROUNDS))):
        drive.lose_power(standing_still=number % 2 == 0)
        changed += drive.come_back()["changed"]
    assert changed > 0, "the power was lost when nothing happened"
    drive.nbdkit.stop()


def main():
    e2e.need_tools(*small_disk.TOOLS, "nbdkit")
    e2e.need_root()
    rng = random.Random(e2e.seed())
    with e2e.Stack() as stack:
        test_state(stack)
    with e2e.Stack() as stack:
        test_state_while_marks_and_flushes_go_on(stack, rng)
    with e2e.Stack() as stack:
        test_drive_and_state(stack, rng)


if __name__ == "__main__":
    main()
