# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client whose changes are logged, and what a daemon must know of them after a restart.

What is durable is a prefix of the changes: so what a later daemon answers is, bit for bit, the
state of a naive model after the first n changes of the log, n being anything from the last one that
was acknowledged to all that were sent.
"""

import functools
import struct
import time

from injection import POLL
from wire import *

POWER_LOSS, PROCESS_CRASH = 1, 2
EXACT, SUPERSET, UNKNOWN = range(3)

GRANULE = 1 << 16
CHUNK = GRANULE * GRANULE * 8  # of a drive, that the bits of one cluster tell of
DRIVE_BYTES = 4 * CHUNK
TOKEN = "writer"


def at(chunk, *numbers):
    """Ranges of a few bytes inside granules of a chunk."""
    return tuple((chunk * CHUNK + n * GRANULE + 7, 1 + n) for n in numbers)


# Every kind of record, before a write-back, after it, and with writes that are unsettled.
STEPS = [
    ("add", "p", POWER_LOSS),
    ("add", "c", PROCESS_CRASH),
    ("create", "p/a"),
    ("create", "p/gone"),
    ("create", "c/a"),
    ("mark", "p", 0, at(0, 1, 2, 900)),
    ("mark", "c", 0, at(0, 5) + at(3, 5)),
    ("attach", "p"),
    ("mark", "p", 1, at(0, 20) + at(1, 20) + at(3, 20)),
    ("create", "p/b"),
    ("flush",),
    ("mark", "c", 0, at(1, 6)),
    ("mark", "p", 4, at(0, 30)),
    ("settle", "p", 1, 2),
    ("clear", "p/a"),
    ("delete", "p/gone"),
    ("flush",),
    ("rename", "p/b", "p/r"),
    ("create", "c/b"),
    ("settle", "p", 3, 2),
    ("mark", "c", 0, at(2, 7)),
    ("detach", "p"),
    ("clear", "c/a"),
    ("mark", "p", 0, at(2, 40)),
    ("mark", "c", 0, at(2, 41)),
]
# What a daemon that was started once more has to do.
FURTHER = [
    ("create", "p/more"),
    ("mark", "p", 0, at(1, 50)),
    ("mark", "c", 0, at(1, 51)),
    ("flush",),
]
# Eight of these marks fill a segment of the journal: it uses both, and the first one again.
FILLING = [("add", "p", POWER_LOSS), ("create", "p/a")] + [
    ("mark", "p", 0, at(0, 1) * 60000 + at(0, 2 + i)) for i in range(18)]


def granules(ranges):
    return {n for offset, length in set(ranges)
            for n in range(offset // GRANULE, (offset + length - 1) // GRANULE + 1)}


class Model:
    def __init__(self, steps=()):
        self.drives = {}     # name: [durability, attached writers]
        self.bitmaps = {}    # name: granules
        self.unsettled = {}  # (drive, id): granules; a restart forgets them
        for step in steps:
            getattr(self, step[0])(*step[1:])

    def of(self, drive):
        return [name for name in self.bitmaps if name.split("/")[0] == drive]

    def open_marks(self, drive):
        return set().union(*(found for (d, _), found in self.unsettled.items() if d == drive))

    def add(self, drive, durability):
        self.drives[drive] = [durability, 0]

    def create(self, name):
        self.bitmaps[name] = self.open_marks(name.split("/")[0])

    def clear(self, name):
        self.create(name)

    def delete(self, name):
        del self.bitmaps[name]

    def rename(self, name, new):
        self.bitmaps[new] = self.bitmaps.pop(name)

    def mark(self, drive, first_id, ranges):
        marked = granules(ranges)
        for name in self.of(drive):
            self.bitmaps[name] |= marked
        for i, one in enumerate(ranges if first_id else ()):
            self.unsettled[drive, first_id + i] = granules([one])

    def settle(self, drive, first_id, count):
        for i in range(count):
            del self.unsettled[drive, first_id + i]

    def attach(self, drive):
        self.drives[drive][1] = 1

    def detach(self, drive):
        self.drives[drive][1] = 0

    def flush(self):
        pass


encoded_mark = functools.lru_cache(mark)


def request(step, id_of):
    what, *rest = step
    return {
        "add": lambda name, durability: (
            DRIVE_ADD, drive_add(name, DRIVE_BYTES, durability=durability)),
        "create": lambda name: (BITMAP_CREATE, bitmap_create(name, GRANULE)),
        "clear": lambda name: (BITMAP_CLEAR, bitmap_range(name, 0, 0, 4)),
        "delete": lambda name: (BITMAP_DELETE, change(name)),
        "rename": lambda name, new: (BITMAP_RENAME, change(name, new.split("/")[1])),
        "mark": lambda drive, first_id, pairs: (
            MARK, encoded_mark(id_of(drive), pairs, first_id)),
        "settle": lambda drive, first_id, count: (
            SETTLE, settle(id_of(drive), [(first_id, count)])),
        "attach": lambda drive: (ATTACH, attach(drive, TOKEN)),
        "detach": lambda drive: (DETACH, struct.pack("<Q", id_of(drive))),
        "flush": lambda: (FLUSH, b""),
    }[what](*rest)


class Workload:
    def __init__(self):
        self.log = []     # steps that were sent, and not refused
        self.certain = 0  # so many of them outlive the daemon
        self.ids = {}
        self.created_later = set()  # bitmaps of a second run

    def id_of(self, client, drive):
        if drive not in self.ids:
            self.ids[drive] = drive_id(client.must(DRIVE_SHOW, text(drive)))
        return self.ids[drive]

    def run(self, client, steps, seconds=20):
        """Does it all, again when the daemon could not.  False when it took too long."""
        deadline = time.monotonic() + seconds
        again = bool(self.log)
        todo = list(steps)
        while todo:
            if time.monotonic() > deadline:
                return False
            step = todo[0]
            operation, payload = request(step, lambda drive: self.id_of(client, drive))
            if again and operation == BITMAP_CREATE:
                self.created_later.add(step[1])
            self.log.append(step)
            status, body = client.call(operation, payload)
            assert status in (OK, IO, NOT_DURABLE), (step, status, body)
            if status == IO:
                self.log.pop()  # nothing has changed
                time.sleep(POLL)
                continue
            if status == OK and operation != SETTLE:
                self.certain = len(self.log)
            todo.pop(0)
        return True

    def pipeline(self, client, steps):
        """Does it all and waits for nothing; as far as the daemon lives."""
        requests = [request(step, lambda drive: self.id_of(client, drive)) for step in steps]
        sent = {}  # cookie: how long the log was with it
        for step, (operation, payload) in zip(steps, requests):
            self.log.append(step)
            sent[client.cookie + 1] = len(self.log)
            try:
                client.request(operation, payload)
            except ConnectionError:
                break  # what it has answered before it died counts
        while sent:
            operation, _, status, cookie, body = client.reply()
            # What a creation answers is the bitmap, if there still is one.
            assert status == OK or (operation, status) == (BITMAP_CREATE, NOT_FOUND), body
            if operation != SETTLE:
                self.certain = max(self.certain, sent[cookie])
            del sent[cookie]

    def durable(self):
        """All that is in force outlives the daemon."""
        self.certain = len(self.log)

    def matching(self, drives, bitmaps):
        """The model that a daemon's answers fit, or None.  The bits of an unknown bitmap (None) are
        not looked at: they say that all is dirty."""
        for n in range(self.certain, len(self.log) + 1):
            model = Model(self.log[:n])
            if model.drives == drives and model.bitmaps.keys() == bitmaps.keys() and all(
                    bits is None or bits == model.bitmaps[name]
                    for name, bits in bitmaps.items()):
                return model
        return None
