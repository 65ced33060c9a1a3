#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A package tree is unpacked onto a file system whose drive is tracked, while bitmapd
and nbdkit are killed at random moments: whatever differs from a copy of the drive
is dirty, after every kill and at the end.

    crash.py [ROUNDS]

Or BITMAPD_TEST_ROUNDS; by default each kind of round is run once.  A round begins at a
point in time: everything is settled, the bitmaps are cleared, the drive is copied.  Its
steps are what happens while a tree is being unpacked:

    daemon   bitmapd is killed, at times stopped, and comes back, at times only after it
             has died again while it started.  The guest must not notice.
    nbdkit   is killed.  The guest's disk is gone; a new nbdkit brings it back, the file
             system is repaired or replays its journal, and has what had been stable.
    both     are killed, one shortly after the other.
    clear    nbdkit stands still for a moment, between marks and their writes too; the
             bitmaps are cleared and a new copy is taken.

The bitmaps may never become unknown, and superset only by a clear that had to carry."""

import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time

import stack as e2e
from guest import TOOLS, Guest
from tree import Tree, Unpacking, check_files

SIZE = 192 << 20
BITMAPS = ("vm1/b", "vm1/fine")
KINDS = (
    ("power-loss", ("daemon", "clear", "daemon")),
    ("power-loss", ("nbdkit", "daemon")),
    ("power-loss", ("both",)),
    ("process-crash", ("clear", "daemon")),
    (None, None),
)
DURABILITIES = ("power-loss", "process-crash")
STEPS = ("daemon", "nbdkit", "both", "clear")
UNPACKING_S = 0.8  # about as long as one takes
AWAY_S_MAX = 1.5  # below the plugin's reconnect-timeout


class Proof:
    def __init__(self, stack, seed):
        self.stack = stack
        self.random = random.Random(seed)
        self.times = random.Random(seed)  # how often it is asked depends on the machine
        self.raw = stack.make_raw("raw", SIZE)
        self.tree = Tree(stack.path("tree.tar"))
        memory = tempfile.mkdtemp(prefix="bitmapd-memory-", dir="/dev/shm")
        stack.callback(shutil.rmtree, memory)
        stack.give(memory)
        self.configs = []
        for name, more in (("calm", ""), ("busy", "  segment_size: 8M\nflush:\n  interval: 100ms\n")):
            self.configs.append(stack.path(f"{name}.yaml"))
            with open(self.configs[-1], "w", encoding="utf-8") as file:
                file.write(f"journal:\n  memory_path: {memory}/journal\n{more}")
        stack.start_daemon("--config", self.configs[0])
        stack.add_drive("vm1", self.raw)
        stack.ctl("bitmap", "create", "vm1/fine", "--granularity", "4K")
        self.guest = Guest(stack, self.raw, "vm1")
        self.guest.start()
        self.guest.make_file_system()
        self.unpacking = None
        self.before = None
        self.validity = None
        self.killed = collections.Counter()
        self.kept = 0  # files that were stable when nbdkit died

    def chance(self, probability):
        return self.random.random() < probability

    def sleep(self, seconds_max):
        time.sleep(self.times.uniform(0, seconds_max))

    # ---- The bitmaps ----

    def clear(self):
        for bitmap in BITMAPS:
            self.stack.ctl("bitmap", "clear", bitmap, "--all")
        # In the order of the alphabet they become worse.
        self.validity = max(
            self.stack.ctl_json("bitmap", "show", bitmap)["validity"] for bitmap in BITMAPS)
        assert self.validity in ("exact", "superset"), self.validity

    def check(self, drive):
        """Compares the drive, or a copy, with the bitmaps as they are now."""
        result = []
        for bitmap in BITMAPS:
            counts = self.stack.compare(self.before, drive, bitmap, quiet=True)
            assert counts["dirty"] < counts["granules"], f"{bitmap}: all dirty proves nothing"
            validity = self.stack.ctl_json("bitmap", "show", bitmap)["validity"]
            assert validity == "exact" or self.validity == "superset", f"{bitmap}: {validity}"
            result.append(counts)
        return result

    def check_meanwhile(self):
        # First the copy, then the maps: what the copy has was marked before.
        self.check(self.stack.copy(self.raw, "now"))

    # ---- The unpacking ----

    def start_unpacking(self):
        if not self.unpacking:
            self.unpacking = Unpacking(self.stack, self.tree, self.guest.new_directory())

    def finish_unpacking(self):
        self.unpacking.finish()
        self.unpacking = None
        self.guest.expect_no_errors()

    def unpack(self):
        """Comes back at some moment of an unpacking."""
        while True:
            self.start_unpacking()
            self.sleep(UNPACKING_S)
            if self.unpacking.running():
                return
            self.finish_unpacking()

    # ---- Deaths ----

    def kill_daemon(self):
        self.stack.daemon.kill()
        self.killed["daemon"] += 1

    def start_daemon(self):
        options = ("--config", self.random.choice(self.configs))
        if self.chance(0.3):
            self.stack.launch_daemon(*options)
            self.sleep(0.1)
            self.kill_daemon()
        self.stack.start_daemon(*options)

    def restart_daemon(self):
        if self.chance(0.8):
            self.kill_daemon()
        else:
            self.stack.daemon.stop()
        if self.chance(0.5):
            self.sleep(AWAY_S_MAX)
        self.start_daemon()

    def kill_nbdkit(self):
        """Returns (directory, what was stable in it)."""
        self.guest.expect_no_errors()
        unpacked = self.guest.newest_directory(), self.unpacking.stable_files()
        self.guest.nbdkit.kill()
        self.killed["nbdkit"] += 1
        return unpacked

    def bring_guest_back(self, directory, stable):
        self.unpacking.abandon()
        self.unpacking = None
        self.guest.leave_dead_disk()
        self.guest.start(*self.random.choice(((), ("mark-align=256K",))))
        if self.chance(0.5):
            self.guest.repair()
        self.guest.mount()
        check_files(directory, stable)
        self.kept += len(stable)
        self.guest.expect_no_errors()

    # ---- Steps ----

    def step_daemon(self):
        self.restart_daemon()
        self.check_meanwhile()

    def step_nbdkit(self):
        unpacked = self.kill_nbdkit()
        self.check(self.raw)
        if self.chance(0.5):
            self.clear()
            self.before = self.stack.copy(self.raw)
        self.bring_guest_back(*unpacked)

    def step_both(self):
        unpacked = None
        for victim in self.random.sample(("daemon", "nbdkit"), 2):
            if victim == "daemon":
                self.kill_daemon()
            else:
                unpacked = self.kill_nbdkit()
            self.sleep(0.2)
        self.start_daemon()
        self.check(self.raw)
        if self.chance(0.5):
            # Nobody knows what the writer had not settled, so that everything is carried.
            dirty = [self.stack.dirty_ranges(bitmap) for bitmap in BITMAPS]
            self.clear()
            assert self.validity == "superset", self.validity
            assert dirty == [self.stack.dirty_ranges(bitmap) for bitmap in BITMAPS]
        self.bring_guest_back(*unpacked)

    def step_clear(self):
        self.guest.nbdkit.signal(signal.SIGSTOP)
        self.check(self.raw)
        self.clear()
        # What is written under marks that were made before has to be dirty when it is.
        self.before = self.stack.copy(self.raw)
        self.guest.nbdkit.signal(signal.SIGCONT)

    # ---- A round ----

    def begin(self, durability):
        self.stack.ctl("drive", "set", "vm1", "--durability", durability)

        def cleared():
            self.clear()
            return self.validity == "exact"

        e2e.wait_until(cleared, "the writer is back")
        for bitmap in BITMAPS:
            assert self.stack.dirty_ranges(bitmap) == [], "dirty after everything was settled"
        self.before = self.stack.copy(self.raw)
        self.killed.clear()
        self.kept = 0

    def run(self, durability, steps):
        """Returns what the comparison at the end has counted."""
        self.begin(durability)
        self.guest.mount()
        for step in steps:
            self.unpack()
            getattr(self, f"step_{step}")()
        self.start_unpacking()
        self.finish_unpacking()
        self.guest.umount()
        self.guest.settle()
        counts = self.check(self.raw)
        assert all(count["changed"] > 20 for count in counts), "the guest changed next to nothing"
        # And as another daemon finds it, and what the file system has on the drive.
        self.restart_daemon()
        assert self.check(self.raw) == counts
        self.guest.mount()
        check_files(self.guest.newest_directory(), self.tree.files)
        self.guest.umount()
        self.guest.settle()
        return counts


def main():
    e2e.need_tools(*TOOLS, "tar", "sync")
    e2e.need_root()
    seed = e2e.seed()
    rounds = int((sys.argv[1:] or [os.environ.get("BITMAPD_TEST_ROUNDS", len(KINDS))])[0])
    with e2e.Stack() as stack:
        proof = Proof(stack, seed)
        for number in range(rounds):
            durability, steps = KINDS[number % len(KINDS)]
            durability = durability or proof.random.choice(DURABILITIES)
            steps = steps or proof.random.choices(STEPS, k=2)
            began = time.monotonic()
            print(f"round {number + 1}, {durability}: {' '.join(steps)}", flush=True)
            counts = proof.run(durability, steps)
            print(f"  killed {dict(proof.killed)}, {proof.kept} stable files found again,"
                  f" {time.monotonic() - began:.1f} s")
            for bitmap, count in zip(BITMAPS, counts):
                print(f"  {bitmap}: {count['changed']} changed, {count['dirty']} dirty of"
                      f" {count['granules']}, {proof.validity}", flush=True)
        proof.guest.stop()
        e2e.run("e2fsck", "-fn", proof.raw)


if __name__ == "__main__":
    main()
