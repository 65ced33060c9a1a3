# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who take backups: each has copies of some drives, and for each the
checkpoint that its next increment begins at.

The checkpoints are made and deleted by a thread, every few milliseconds, on all
drives at once; it spares those that are bases.
"""

import collections
import json
import os
import random
import subprocess
import threading

import stack as e2e

WAYS = ("since", "until", "both", "split")  # to ask for what was written
DONE, FAILED, UNREACHABLE, GONE, UNKNOWN, MISSED = 0, 1, 3, 4, 6, 8


class Checkpoint(collections.namedtuple("Checkpoint", "name uuid number")):
    def __str__(self):
        return f"{self.name}@{self.uuid}"


class Checkpoints:
    """Of a few drives: all have the same."""

    KEPT = 24  # that nobody needs

    def __init__(self, stack, drives, seed):
        self.stack = stack
        self.drives = drives
        self.random = random.Random(seed)
        self.lock = threading.RLock()
        self.all = []
        self.bases = collections.Counter()
        self.made = 0
        self.deleted = 0
        self.aborted = 0  # by a daemon that was killed
        self.may_fail = False
        self.thread = None
        self.running = threading.Event()

    def ctl(self, *arguments):
        """The process's result, or None when the daemon was not there, or died meanwhile."""
        result = self.stack.ctl(*arguments, check=False)
        if result.returncode == DONE:
            return result
        if self.may_fail and result.returncode in (FAILED, UNREACHABLE):
            self.aborted += 1
            return None
        raise AssertionError(f"{arguments}: exit {result.returncode}: {result.stderr}")

    def create(self, held=False):
        """None only when it may fail.  @held: as if it were a base."""
        with self.lock:
            self.made += 1
            # Names come again, UUIDs do not.
            taken = {checkpoint.name for checkpoint in self.all}
            name = next(name for name in self.names() if name not in taken)
            result = self.ctl("-o", "json", "checkpoint", "create", name, *self.drives)
            if result is None:
                self.forget_unfinished(name)
                return None
            checkpoint = Checkpoint(name, json.loads(result.stdout)["uuid"], self.made)
            self.all.append(checkpoint)
            self.bases[checkpoint] += held
            return checkpoint

    def let_go(self, checkpoint):
        with self.lock:
            self.bases[checkpoint] -= 1

    def names(self):
        while True:
            yield f"c{self.random.randrange(4 * self.KEPT)}"

    def forget_unfinished(self, name):
        """Whether it was made is not known: it will be deleted if it is found."""
        self.all.append(Checkpoint(name, None, self.made))

    def delete(self, checkpoint):
        with self.lock:
            for drive in self.drives:
                name = checkpoint.name if checkpoint.uuid is None else str(checkpoint)
                result = self.stack.ctl("checkpoint", "delete", drive, name, check=False)
                if result.returncode in (FAILED, UNREACHABLE) and self.may_fail:
                    self.aborted += 1
                    self.all.remove(checkpoint)
                    self.forget_unfinished(checkpoint.name)
                    return
                # It may have been made, or deleted, without an answer.
                allowed = (DONE, GONE) if self.may_fail or checkpoint.uuid is None else (DONE,)
                assert result.returncode in allowed, (checkpoint, result)
            self.all.remove(checkpoint)
            self.deleted += 1

    def between(self, since, until):
        """One in between, or None."""
        with self.lock:
            return self.random.choice(
                [c for c in self.all if c.uuid and since.number < c.number < until.number] or [None])

    def delete_some(self):
        with self.lock:
            idle = [checkpoint for checkpoint in self.all if not self.bases[checkpoint]]
            while len(idle) > self.KEPT or (len(idle) > 2 and self.random.random() < 0.4):
                victim = idle.pop(self.random.randrange(len(idle)))
                self.delete(victim)
                if victim in self.all or self.thread_is_to_end():
                    return

    def thread_is_to_end(self):
        return self.thread is threading.current_thread() and not self.running.is_set()

    # ---- The thread ----

    def main(self):
        try:
            while self.running.is_set():
                checkpoint = self.create()
                if checkpoint and self.random.random() < 0.5:
                    self.delete_some()
                self.running.is_set() and threading.Event().wait(self.random.uniform(0, 0.01))
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def start(self):
        self.error = None
        self.running.set()
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()

    def stop(self):
        self.running.clear()
        self.thread.join(e2e.WAIT_S)
        if self.error:
            raise AssertionError(f"checkpoints: {self.error!r}") from self.error


def copy_ranges(source, target, ranges):
    reader = os.open(source, os.O_RDONLY)
    writer = os.open(target, os.O_WRONLY)
    try:
        for offset, length in ranges:
            os.pwrite(writer, os.pread(reader, length, offset), offset)
    finally:
        os.close(reader)
        os.close(writer)


def files_are_equal(one, other):
    return subprocess.run(["cmp", "-s", one, other], check=False, timeout=60).returncode == 0


class Consumer:
    """One consumer's copies of a drive."""

    counts = collections.Counter()

    def __init__(self, stack, checkpoints, drive, raw, name, rng):
        self.stack = stack
        self.checkpoints = checkpoints
        self.drive = drive
        self.raw = raw
        self.size = os.path.getsize(raw)
        self.image = stack.path(f"{name}-{drive}.image")
        self.random = rng
        self.base = None
        self.is_unknown = False  # what was written since the base

    def set_base(self, checkpoint):
        with self.checkpoints.lock:
            if self.base:
                self.checkpoints.let_go(self.base)
            self.base = checkpoint
            self.checkpoints.bases[checkpoint] += 1

    def map(self, since, until=None):
        """(exit code, dirty ranges)."""
        options = ("--until", str(until)) if until else ()
        result = self.stack.ctl(
            "-o", "json", "map", self.drive, "--since", str(since), *options, check=False)
        if result.returncode not in (DONE, UNKNOWN):
            return result.returncode, None
        entries = json.loads(result.stdout)
        assert sum(entry["length"] for entry in entries) == self.size, entries
        ranges = [(entry["offset"], entry["length"]) for entry in entries if entry["type"] == 1]
        if result.returncode == UNKNOWN:
            assert ranges == [(0, self.size)], "an unknown map is not all dirty"
        return result.returncode, ranges

    def verify(self):
        return self.stack.ctl(
            "verify", self.drive, "--since", str(self.base), "--against", self.image,
            check=False).returncode

    def full(self, checkpoint):
        e2e.run("cp", "--sparse=always", "--reflink=auto", self.raw, self.image)
        self.set_base(checkpoint)
        self.is_unknown = False
        self.counts["full"] += 1

    def expect_equal(self, how):
        assert files_are_equal(self.raw, self.image), (
            f"{self.drive}: the copy differs from the drive after {how} since {self.base}")

    def ranges(self, checkpoint, is_now):
        """What to copy, asked for in one of the ways; None: a full copy is needed."""
        between = self.checkpoints.between(self.base, checkpoint)
        way = self.random.choice(WAYS)
        if way == "until" and is_now:
            code, ranges = self.map(self.base, checkpoint)
        elif way == "both" and between:
            # All of it in two pieces that meet at a checkpoint.
            code, ranges = self.map(self.base, between)
            if code == DONE:
                code, more = self.map(between)
                ranges += more or []
        elif way == "split":
            code, ranges = self.map(self.base, checkpoint)
            if code == DONE:
                code, more = self.map(checkpoint)
                ranges += more or []
        else:
            way = "since"
            code, ranges = self.map(self.base)
        self.counts[way] += 1
        if code == GONE:
            self.counts["gone"] += 1
            return None
        assert code in (DONE, UNKNOWN), code
        assert (code == UNKNOWN) == self.is_unknown, (
            f"{self.drive}: exit {code} for '{way}' since {self.base}:"
            f" {self.stack.ctl_json('checkpoint', 'list', self.drive)}")
        if code == UNKNOWN:
            self.counts["unknown"] += 1
            return None
        return ranges

    def backup(self, checkpoint, is_now):
        """At a point where the drive stands still.  @is_now: @checkpoint was made there."""
        if self.base is None:
            self.full(checkpoint)
            return
        ranges = self.ranges(checkpoint, is_now)
        if ranges is None:
            self.full(checkpoint)
            return
        self.counts["dirty_bytes"] += sum(length for _, length in ranges)
        self.counts["bytes"] += self.size
        if self.random.random() < 0.15:
            # It breaks off, leaves a mess, and is tried again from the same base some time.
            copy_ranges(
                self.raw, self.image, self.random.sample(ranges, len(ranges) // 2))
            self.counts["broken_off"] += 1
            return
        code = self.verify()
        # Asked a moment later, and about all of the time since: what was not unknown is not now.
        assert code == DONE, f"{self.drive}: verify since {self.base}: exit {code}"
        copy_ranges(self.raw, self.image, ranges)
        self.expect_equal(f"{ranges}")
        self.set_base(checkpoint)
        self.counts["increments"] += 1

    def lose_base(self):
        """Somebody deletes it: no other may be taken in its place."""
        base = self.base
        with self.checkpoints.lock:
            self.checkpoints.delete(base)
        assert self.map(base)[0] == GONE
        code = self.stack.ctl(
            "verify", self.drive, "--since", str(base), "--against", self.image,
            check=False).returncode
        assert code == GONE, code

    def expect_miss(self):
        """A byte that changes behind the daemon's back is found, if it is clean."""
        code, ranges = self.map(self.base)
        if code != DONE:
            return
        clean = [granule for granule in range(0, self.size, 65536)
                 if not any(o < granule + 65536 and granule < o + l for o, l in ranges)]
        if not clean:
            return
        offset = self.random.choice(clean)
        offset += self.random.randrange(min(65536, self.size - offset))
        with open(self.raw, "r+b", buffering=0) as file:
            byte = os.pread(file.fileno(), 1, offset)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0xff]), offset)
            code = self.verify()
            os.pwrite(file.fileno(), byte, offset)
        assert code == MISSED, f"verify did not find a byte that differs: exit {code}"
        assert self.verify() == DONE
        self.counts["misses_found"] += 1
