#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Increments are enough: while several clients write to two drives, and checkpoints of
both are made and deleted every few milliseconds, three consumers copy the drives at points
where these stand still, each from a base of its own; copy and increments give the drive,
byte for byte.  Some backups break off half way, some bases go.

    backups.py [POINTS]

Or BITMAPD_TEST_ROUNDS; without either it ends early where the machine is slow.  A drive stands still either because its writers pause, or
because nbdkit is stopped in the midst of all, between marks and their writes too.
"""

import os
import random
import signal
import sys
import time

import stack as e2e
from consumers import WAYS, Checkpoints, Consumer
from writers import Crowd

POINTS = 18
POINTS_MIN = 8
TIME_S = 14  # then no more than POINTS_MIN
SIZES = {"vm1": (24 << 20) + 1536, "vm2": (16 << 20) + 65536}
GRANULARITIES = ("4K", "16K", "64K", "256K")
CONSUMERS = 3


class Run:
    """Drives, writers, checkpoints and consumers, and what can be done to them."""

    may_break = False
    nbdkit_parameters = {"vm1": (), "vm2": ("mark-align=128K",)}

    def __init__(self, stack, seed):
        self.stack = stack
        self.random = random.Random(seed)
        self.config = stack.path("bitmapd.yaml")
        with open(self.config, "w", encoding="utf-8") as file:
            # So that bits are dropped from memory and read again all the time.
            file.write(
                "flush:\n  interval: 100ms\njournal:\n  segment_size: 8M\n"
                "limits:\n  sealed_memory: 16K\n")
        self.start_daemon()
        self.raws = {drive: stack.make_raw(drive, size) for drive, size in SIZES.items()}
        for drive, raw in self.raws.items():
            stack.ctl("drive", "add", drive, "--path", raw, "--granularity", "4K")
        self.nbdkits = {}
        self.points_done = 0
        for drive in SIZES:
            self.start_nbdkit(drive)
        self.checkpoints = Checkpoints(stack, list(SIZES), self.random.random())
        self.crowds = {
            drive: Crowd(self.nbdkits[drive].socket, size, self.random.randrange(1 << 32),
                         may_break=self.may_break)
            for drive, size in SIZES.items()}
        self.consumers = [
            [Consumer(stack, self.checkpoints, drive, raw, f"consumer{i}",
                      random.Random(self.random.random()))
             for drive, raw in self.raws.items()]
            for i in range(CONSUMERS)]
        self.checkpoints.start()

    def start_daemon(self):
        self.stack.start_daemon("--config", self.config)

    def start_nbdkit(self, drive):
        self.nbdkits[drive] = self.stack.start_nbdkit(
            self.raws[drive], drive, "reconnect-timeout=60", *self.nbdkit_parameters[drive],
            name=drive)

    def chance(self, probability):
        return self.random.random() < probability

    # ---- The drives stand still ----

    def freeze(self):
        for nbdkit in self.nbdkits.values():
            if nbdkit.running():
                freeze(nbdkit)

    def thaw(self):
        for nbdkit in self.nbdkits.values():
            if nbdkit.running():
                nbdkit.signal(signal.SIGCONT)

    def pause(self):
        for crowd in self.crowds.values():
            crowd.pause()

    def go_on(self):
        for crowd in self.crowds.values():
            crowd.go_on()

    # ---- Backups ----

    def checkpoint(self):
        while True:
            checkpoint = self.checkpoints.create(held=True)
            if checkpoint:
                return checkpoint

    def backups(self, checkpoint, is_now):
        for consumer in self.random.sample(self.consumers, self.random.randrange(1, CONSUMERS + 1)):
            for copy in consumer:
                copy.backup(checkpoint, is_now)

    def point(self):
        checkpoint = self.checkpoint() if self.chance(0.4) else None
        frozen = self.chance(0.6)
        if frozen:
            self.freeze()
        else:
            self.pause()
        is_now = checkpoint is None
        checkpoint = checkpoint or self.checkpoint()
        self.backups(checkpoint, is_now)
        if self.chance(0.3):
            copy = self.random.choice(self.random.choice(self.consumers))
            if copy.base:
                copy.expect_miss()
        self.checkpoints.let_go(checkpoint)
        if frozen:
            self.thaw()
        else:
            self.go_on()

    def between_points(self):
        for drive, crowd in self.crowds.items():
            if self.chance(0.8):
                crowd.move()
            crowd.wait_for_requests(self.random.randrange(5, 120))
            if self.chance(0.2):
                self.stack.ctl(
                    "drive", "set", drive, "--granularity", self.random.choice(GRANULARITIES))
        if self.chance(0.1):
            copy = self.random.choice(self.random.choice(self.consumers))
            if copy.base and copy.base in self.checkpoints.all:
                copy.lose_base()
        if self.chance(0.1):
            self.restart_daemon()

    def restart_daemon(self):
        with self.checkpoints.lock:
            self.stack.daemon_stops()
            self.start_daemon()

    def points(self, wanted):
        """@wanted: as a number, or None."""
        began = time.monotonic()
        for number in range(wanted or POINTS):
            if not wanted and number >= POINTS_MIN and time.monotonic() - began > TIME_S:
                break
            self.between_points()
            self.point()
            self.points_done += 1
        self.finish()
        self.report(self.points_done, began)

    def finish(self):
        """A last increment for each, of drives that are not written to any more."""
        self.checkpoints.stop()
        self.pause()
        checkpoint = self.checkpoint()
        for consumer in self.consumers:
            for copy in consumer:
                while copy.base != checkpoint:
                    copy.backup(checkpoint, True)
                copy.expect_miss()
        for crowd in self.crowds.values():
            crowd.end()
        for nbdkit in self.nbdkits.values():
            nbdkit.stop()

    def report(self, points, began):
        counts = Consumer.counts
        share = counts["dirty_bytes"] / max(counts["bytes"], 1)
        requests = sum(crowd.requests for crowd in self.crowds.values())
        print(f"{points} points, {requests} requests, {self.checkpoints.made} checkpoints made,"
              f" {self.checkpoints.deleted} deleted, {self.checkpoints.aborted} aborted,"
              f" {share:.0%} dirty, {dict(counts)}, {time.monotonic() - began:.1f} s")
        assert counts["increments"] > points / 2, "few increments"
        full = counts["unknown"] + counts["gone"] + CONSUMERS * len(SIZES)
        assert counts["full"] == full, "full copies without a reason"
        maps = sum(counts[way] for way in WAYS)
        assert counts["unknown"] < maps / 2, "most was unknown"
        # All dirty would prove nothing.
        assert share < 0.7, "most was dirty"


def is_stopped(process):
    tasks = f"/proc/{process.popen.pid}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/stat", encoding="utf-8") as file:
            if file.read().rsplit(")", 1)[1].split()[0] != "T":
                return False
    return True


def freeze(process):
    """Stops it in the midst of all; comes back when none of its threads runs."""
    process.signal(signal.SIGSTOP)
    e2e.wait_until(lambda: is_stopped(process), f"{process.name} stands still")


def points_wanted():
    words = sys.argv[1:] or [os.environ.get("BITMAPD_TEST_ROUNDS", "0")]
    return int(words[0]) or None


def main():
    e2e.need_tools("nbdkit", "cmp")
    seed = e2e.seed()
    with e2e.Stack() as stack:
        Run(stack, seed).points(points_wanted())
        assert Consumer.counts["misses_found"] > 0 and Consumer.counts["unknown"] == 0


if __name__ == "__main__":
    main()
