#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose drive it is, with a real block device: what writes past the daemon while no writer
is attached is found out at the next attach; the same disk on another loop device is the same
drive, another disk under the path is refused until it is adopted."""

import json
import os

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 64 * GRANULE
DONE, GONE, UNKNOWN = 0, 4, 6


class Lun:
    """A drive under a path that can be made to lead elsewhere."""

    def __init__(self, stack):
        self.stack = stack
        self.path = stack.path("lun")
        self.backing = stack.make_raw("backing", SIZE)
        self.copy = stack.path("copy")
        self.checkpoints = 0
        self.attach(self.backing)

    def attach(self, backing):
        self.device = self.stack.attach_loop(backing)
        os.symlink(self.device, self.path)

    def detach(self):
        e2e.sync_device(self.device)
        os.unlink(self.path)
        self.stack.detach_loop(self.device)

    def write(self, offset, data):
        """Through the plugin, from its start to its orderly end."""
        nbdkit = self.stack.start_nbdkit(self.path, "lun")
        with nbd.Client(nbdkit.socket) as client:
            client.write(offset, data)
        nbdkit.stop()

    def start_and_stop(self):
        self.stack.start_nbdkit(self.path, "lun").stop()

    def write_past_the_daemon(self, offset, data):
        with open(self.path, "r+b", buffering=0) as device:
            os.pwrite(device.fileno(), data, offset)
        # Sectors count when they are written back, not in the page cache.
        e2e.sync_device(self.path)

    def full(self):
        """A checkpoint with a copy."""
        self.checkpoints += 1
        name = f"c{self.checkpoints}"
        self.stack.ctl("checkpoint", "create", name, "lun")
        e2e.run("dd", f"if={self.path}", f"of={self.copy}", "bs=1M", "status=none")
        return name

    def map(self, since):
        """(exit code, head, dirty ranges)."""
        result = self.stack.ctl("-o", "ndjson", "map", "lun", "--since", since, check=False)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        return result.returncode, lines[0], [
            (line["byte_offset"], line["size_bytes"]) for line in lines[1:-1]]

    def expect(self, since, *dirty):
        code, head, found = self.map(since)
        assert code == DONE and head["validity"] == "exact", (code, head)
        assert found == list(dirty), f"expected {dirty}, found {found}"
        result = self.verify(since)
        assert result.returncode == DONE, result

    def verify(self, since):
        return self.stack.ctl(
            "verify", "lun", "--since", since, "--against", self.copy, check=False)

    def expect_unknown(self, since, *words):
        code, head, found = self.map(since)
        assert code == UNKNOWN and found == [(0, SIZE)], (code, head, found)
        for word in words:
            assert word in head["reason"], head


def test_nothing_past_the_daemon(lun):
    """What is dirty in the page cache at the end counts before the evidence is taken."""
    base = lun.full()
    lun.write(GRANULE, os.urandom(3 * GRANULE))
    assert lun.stack.ctl_json("drive", "show", "lun")["untracked"] == "ruled-out"
    e2e.sync_device(lun.path)
    lun.start_and_stop()
    lun.write(8 * GRANULE, b"a" * 512)
    lun.stack.restart_daemon()
    lun.write(9 * GRANULE, b"a" * 512)
    lun.expect(base, (GRANULE, 3 * GRANULE), (8 * GRANULE, 2 * GRANULE))


def test_written_past_the_daemon(lun):
    base = lun.full()
    lun.write(GRANULE, b"b" * 512)
    lun.write_past_the_daemon(20 * GRANULE, b"b" * 4096)
    # Nobody knows yet but who compares.
    assert lun.verify(base).returncode != DONE
    nbdkit = lun.stack.start_nbdkit(lun.path, "lun")
    lun.expect_unknown(base, "while no writer was attached", "8 sectors were written")
    # What is recorded from now on is exact again.
    with nbd.Client(nbdkit.socket) as client:
        client.write(3 * GRANULE, b"c" * 512, nbd.FUA)
        new = lun.full()
        client.write(4 * GRANULE, b"c" * 512, nbd.FUA)
    nbdkit.stop()
    lun.expect(new, (4 * GRANULE, GRANULE))
    lun.expect_unknown(base)


def test_same_disk_attached_anew(lun):
    """Not refused.  The device counts anew; the file below it tells of writes all the same."""
    base = lun.full()
    lun.write(GRANULE, b"d" * 512)
    lun.detach()
    lun.attach(lun.backing)
    lun.start_and_stop()
    lun.expect(base, (GRANULE, GRANULE))
    head = lun.map(base)[1]
    assert head["untracked"] == "not-ruled-out" and "attachment" in head["untracked_reason"], head

    lun.detach()
    with open(lun.backing, "r+b", buffering=0) as file:
        e2e.wait_until(lambda: changes_time(file), "the clock of the file system ticks")
    lun.attach(lun.backing)
    lun.start_and_stop()
    lun.expect_unknown(base, "while no writer was attached", "file below it moved")
    new = lun.full()
    lun.write(6 * GRANULE, b"d" * 512)
    lun.expect(new, (6 * GRANULE, GRANULE))


def test_another_disk(lun):
    stack = lun.stack
    base = lun.full()
    stack.ctl("bitmap", "create", "lun/b")
    lun.write(GRANULE, b"e" * 512)
    lun.detach()
    other = stack.make_raw("other", SIZE)
    lun.attach(other)
    code, text = stack.run_nbdkit(lun.path, "lun")
    assert code != 0, text
    for words in ("another drive stands under", "bitmapctl drive adopt lun"):
        assert words in text, f"{words!r} is not in: {text}"
    assert stack.ctl_json("drive", "show", "lun")["writers"] == 0

    # The right one again: as if nothing had been.
    lun.detach()
    lun.attach(lun.backing)
    lun.start_and_stop()
    lun.expect(base, (GRANULE, GRANULE))

    lun.detach()
    lun.attach(other)
    stack.ctl("drive", "adopt", "lun")
    assert stack.ctl(
        "map", "lun", "--since", base, check=False).returncode == GONE, "a base of another drive"
    assert stack.ctl_json("bitmap", "show", "lun/b")["validity"] == "unknown"
    lun.start_and_stop()
    new = lun.full()
    stack.ctl("bitmap", "clear", "lun/b", "--all")
    lun.write(7 * GRANULE, b"e" * 512)
    lun.expect(new, (7 * GRANULE, GRANULE))
    assert stack.dirty_ranges("lun/b") == [(7 * GRANULE, GRANULE)]


def test_file(stack):
    """The same for a file: size and time of its last change, and its inode."""
    raw = stack.make_raw("raw", SIZE)
    stack.ctl("drive", "add", "vm1", "--path", raw)
    stack.ctl("checkpoint", "create", "c1", "vm1")
    nbdkit = stack.start_nbdkit(raw, "vm1")
    with nbd.Client(nbdkit.socket) as client:
        client.write(0, b"a" * 512)
    nbdkit.stop()
    stack.start_nbdkit(raw, "vm1").stop()
    assert stack.ctl("map", "vm1", "--since", "c1").returncode == DONE
    with open(raw, "r+b", buffering=0) as file:
        e2e.wait_until(lambda: changes_time(file), "the clock of the file system ticks")
    stack.start_nbdkit(raw, "vm1").stop()
    assert stack.ctl("map", "vm1", "--since", "c1", check=False).returncode == UNKNOWN

    os.unlink(raw)
    stack.make_raw("raw", SIZE)
    code, text = stack.run_nbdkit(raw, "vm1")
    assert code != 0 and "bitmapctl drive adopt vm1" in text, text
    stack.ctl("drive", "adopt", "vm1")
    stack.start_nbdkit(raw, "vm1").stop()


def changes_time(file):
    before = os.fstat(file.fileno()).st_mtime_ns
    os.pwrite(file.fileno(), b"x", 8 * GRANULE)
    return os.fstat(file.fileno()).st_mtime_ns != before


def main():
    e2e.need_tools("nbdkit", "losetup", "dd")
    e2e.need_root()
    with e2e.Stack() as stack:
        stack.start_daemon()
        test_file(stack)
        lun = Lun(stack)
        stack.ctl("drive", "add", "lun", "--path", lun.path)
        for test in (test_nothing_past_the_daemon, test_written_past_the_daemon,
                     test_same_disk_attached_anew, test_another_disk):
            test(lun)


if __name__ == "__main__":
    main()
