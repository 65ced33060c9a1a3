#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files with the daemon's state cannot be written, each alone and all together, or
their file system stops or goes read-only: what was acknowledged stays."""

import os
import subprocess

import small_disk
import stack as e2e
from marks import CHUNKS, Marks

CONTAINER = ("bitmaps.qcow2",)
JOURNAL = ("journal.0", "journal.1")
FORBIDDEN = "Operation not permitted"
READ_ONLY = "Read-only file system"


def test_container(stack):
    """The journal has room, so that nobody but the administrator notices."""
    marks = Marks(stack)
    with marks.disk.immutable(*CONTAINER):
        marks.must()
        marks.expect_flush_to_fail(FORBIDDEN)
        marks.expect_degraded(FORBIDDEN)
        marks.must()
        marks.check()
    marks.expect_recovery()
    marks.check_after_kill()


def test_killed_while_the_container_is_stuck(stack):
    marks = Marks(stack, interval="100ms")
    with marks.disk.immutable(*CONTAINER):
        for chunk in range(CHUNKS):
            marks.must(chunk)
        stack.daemon.kill()
    marks.start_daemon()
    marks.check()
    marks.expect_recovery()


def test_journal(stack):
    """What the container has needs no journal."""
    marks = Marks(stack)
    with marks.disk.immutable(*JOURNAL):
        for _ in range(3):
            marks.must()
        marks.expect_degraded(FORBIDDEN)
        stack.ctl("flush")
        marks.check()
    marks.expect_recovery()
    marks.check_after_kill()


def expect_nothing_to_be_taken(marks, cause):
    for _ in range(3):
        marks.must_fail(cause)
    marks.expect_flush_to_fail(cause)
    marks.expect_degraded(cause)
    marks.check()


def test_all_files(stack):
    marks = Marks(stack)
    marks.must()
    with marks.disk.immutable(*CONTAINER, *JOURNAL):
        expect_nothing_to_be_taken(marks, FORBIDDEN)
    marks.expect_recovery()
    marks.check_after_kill()


def test_read_only(stack):
    marks = Marks(stack)
    for chunk in range(CHUNKS):
        marks.must(chunk)
    marks.disk.become_read_only()
    expect_nothing_to_be_taken(marks, READ_ONLY)
    stack.daemon.check_running()
    marks.check_after_kill(mount_again=True)
    marks.expect_recovery()


def test_hung_disk(stack):
    """Marks wait, readers do not."""
    marks = Marks(stack)
    marks.must()
    with marks.disk.frozen():
        granule = 1000
        marks.tried.add(granule)
        process = stack.start(
            "mark", [os.environ["BITMAPCTL"], "-s", stack.socket, "mark", "d",
                     str(granule * 65536), "1"])
        marks.check()
        try:
            process.popen.wait(timeout=0.5)
            raise AssertionError("a mark was acknowledged by a disk that stands still")
        except subprocess.TimeoutExpired:
            pass
        marks.check()
        assert not stack.ctl_json("status")["degraded"]
    assert process.wait() == 0
    marks.acknowledged.add(granule)
    marks.check_after_kill()


def test_thin_disk_without_room(stack):
    """A disk that has promised more than it has: writing succeeds, syncing does not.  What was
    written then is not there when it is read from the disk, even if it is written again in its
    place and synced with success (ext4, Linux 6.18)."""
    pool = stack.path("pool")
    os.mkdir(pool)
    e2e.run("mount", "-t", "tmpfs", "-o", "size=64m", "none", pool)
    stack.callback(e2e.run, "umount", "-l", pool, check=False)
    marks = Marks(stack, mebibytes=128, image="pool/small")
    stack.ctl("flush")
    e2e.run("fstrim", marks.disk.mountpoint)  # what is free there has to be found anew
    small_disk.fill(os.path.join(pool, "filler"))
    for chunk in range(CHUNKS):
        marks.must(chunk)
    marks.expect_flush_to_fail("cannot sync")
    marks.expect_degraded("cannot sync")
    marks.must()
    marks.check()
    os.unlink(os.path.join(pool, "filler"))
    marks.expect_recovery()
    marks.check_after_kill(mount_again=True)


TESTS = (
    test_container,
    test_killed_while_the_container_is_stuck,
    test_journal,
    test_all_files,
    test_read_only,
    test_hung_disk,
    test_thin_disk_without_room,
)


def main():
    e2e.need_tools(*small_disk.TOOLS, "fsfreeze", "fstrim")
    e2e.need_root()
    for test in TESTS:
        with e2e.Stack() as stack:
            test(stack)


if __name__ == "__main__":
    main()
