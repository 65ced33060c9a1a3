# SPDX-License-Identifier: LGPL-2.1-or-later
"""The next daemon in a directory in which one had a fault: does it know everything, and serve?"""

import os
import struct
import subprocess

from wire import *
from workload import EXACT, GRANULE, TOKEN, UNKNOWN, at, granules

CONFIG = "journal:\n  segment_size: 8M\nflush:\n  interval: 1h\n"


class Fields:
    """Takes a message apart: each kind is a letter of struct's, "s" a string, "u" a UUID."""

    def __init__(self, body):
        self.body, self.position = body, 0

    def bytes(self, count):
        self.position += count
        return self.body[self.position - count:self.position]

    def take(self, kinds):
        return [self.one(kind) for kind in kinds]

    def one(self, kind):
        if kind == "s":
            return self.bytes(self.one("H")).decode()
        if kind == "u":
            return self.bytes(16)
        return struct.unpack("<" + kind, self.bytes(struct.calcsize("<" + kind)))[0]


def items(client, operation, payload=b""):
    cookie = client.request(operation, payload)
    found = []
    while True:
        _, flags, status, answered, body = client.reply()
        assert answered == cookie and status == OK, (status, body)
        if not flags & MORE:
            return found
        found.append(Fields(body))


def observe(client):
    """Drives: [durability, writers]; bitmaps: granules, or None when these are all because it is
    unknown; and validities with their reasons."""
    drives, bitmaps, validities = {}, {}, {}
    for item in items(client, DRIVE_LIST):
        _, name, _, _, _, durability, _, _, writers, lost, _ = item.take("QssQIBIIIIQ")
        drives[name] = [durability, writers + lost]
    for item in items(client, BITMAP_LIST, text("")):
        _, name, granularity, _, recording, _, validity, reason = item.take("QsIQBBBs")
        assert (granularity, recording) == (GRANULE, 1), name
        bitmaps[name] = granules(client.map(name)) if validity != UNKNOWN else None
        validities[name] = validity, reason
    return drives, bitmaps, validities


def status(client):
    """(why it is degraded, or None; unknown bitmaps)"""
    fields = Fields(client.must(STATUS))
    *_, unknown, _, _, _, _, _, _, degraded, reason = fields.take("suusQQQIIIIQQQQQBs")
    return reason if degraded else None, unknown


def container_check(directory, *good):
    """0 is sound, 3 leaked clusters."""
    container = os.path.join(directory, "bitmaps.qcow2")
    if os.path.exists(container):
        result = subprocess.run([os.environ["BITMAPCTL"], "container", "check", container],
                                capture_output=True, text=True)
        assert result.returncode in good, (result.returncode, result.stdout, result.stderr)


def come_back(client, model):
    """The writer of "p" was lost.  Until it is back, a clear keeps what it may still write."""
    carried = model.open_marks("p")
    for name in model.of("p"):
        client.must(BITMAP_CLEAR, bitmap_range(name, 0, 0, 4))
        left = granules(client.map(name))
        assert carried <= left <= model.bitmaps[name], (name, carried, left)
    drive, _, resuming = struct.unpack("<QQB", client.must(ATTACH, attach("p", TOKEN)))
    assert resuming == 1
    client.must(MARK, mark(drive, at(3, 60), 1))
    client.must(RESUME, struct.pack("<Q", drive))
    client.must(SETTLE, settle(drive, [(1, 1)]))
    client.must(DETACH, struct.pack("<Q", drive))


def serve(client):
    drive = drive_id(client.must(DRIVE_ADD, drive_add("probe", 1 << 30)))
    client.must(BITMAP_CREATE, bitmap_create("probe/a"))
    client.must(MARK, mark(drive, [(0, 1)]))
    client.must(FLUSH)
    assert client.map("probe/a") == [(0, GRANULE)]


def trusted(name, validity, reason):
    """Only of the process-crash drive acknowledged marks may be lost, by a failed sync."""
    return validity == EXACT or (name.startswith("c/") and "a sync of the journal failed" in reason)


def verify(directory, workload, unread):
    """Returns how many bitmaps are unknown.  @unread: None, or a file that the daemon had an error
    with when it read it for its start.  Of the container that may cost a bitmap, and of the journal
    all those that were there; or the daemon has refused to start."""
    container_check(directory, 0, 3)
    with Daemon(directory=directory, config=CONFIG) as daemon:
        client = daemon.client()
        drives, bitmaps, validities = observe(client)
        unknown = {name for name in bitmaps if bitmaps[name] is None}
        if unknown and unread and unread.startswith("journal."):
            assert bitmaps.keys() - unknown <= workload.created_later, validities
        else:
            model = workload.matching(drives, bitmaps)
            assert model, ("lost or made up", drives, bitmaps, workload.certain, workload.log)
            assert unread or all(trusted(name, *validities[name]) for name in validities), validities
            if model.drives.get("p", [0, 0])[1]:
                come_back(client, model)
        assert status(client) == (None, len(unknown)), status(client)
        serve(client)
    container_check(directory, 0)
    return len(unknown)
