#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file system with the daemon's state is full: the journal takes marks as long as
it has room, then they fail and say why; nothing that was acknowledged is lost, and
when there is room again all is well without any help."""

import os

import nbd
import small_disk
import stack as e2e
from marks import CHUNKS, Marks

FULL = "No space left on device"


def mark_all_chunks(marks):
    for chunk in range(CHUNKS):
        marks.must(chunk)


def test_container_has_no_room(stack):
    marks = Marks(stack)
    marks.must()
    stack.ctl("flush")
    marks.disk.fill()
    mark_all_chunks(marks)
    marks.expect_flush_to_fail(FULL)
    marks.expect_degraded(FULL)
    marks.must()
    marks.check()
    marks.disk.make_room()
    marks.expect_recovery()
    marks.check_after_kill(mount_again=True)


def test_filled_while_marks_go_on(stack):
    marks = Marks(stack, interval="100ms")
    with marks.going_on():
        for _ in range(3):
            marks.disk.fill()
            count = len(marks.acknowledged)
            e2e.wait_until(
                lambda: len(marks.acknowledged) >= count + CHUNKS, "marks go on")
            marks.disk.make_room()
    # It had room for the journal all the time.
    assert marks.acknowledged == marks.tried
    marks.expect_recovery()
    marks.check_after_kill()


def fill_everything(marks):
    marks.disk.fill()
    mark_all_chunks(marks)
    result = marks.fill_journal()
    assert result.returncode == 1 and FULL in result.stderr, result


def test_journal_is_full_too(stack):
    marks = Marks(stack)
    fill_everything(marks)
    for _ in range(3):
        marks.must_fail(FULL)
    marks.expect_flush_to_fail(FULL)
    marks.expect_degraded(FULL)
    marks.check()
    assert stack.ctl("bitmap", "create", "d/c", check=False).returncode == 1
    marks.disk.make_room()
    marks.expect_recovery()
    marks.check_after_kill()


def test_killed_while_full(stack):
    marks = Marks(stack)
    fill_everything(marks)
    stack.daemon.kill()
    marks.disk.make_room()
    marks.start_daemon()
    marks.check()
    marks.expect_recovery()


def test_guest(stack):
    """Its writes fail while marks do, and only then."""
    marks = Marks(stack)
    size = 64 << 20
    raw = stack.make_raw("raw", size)
    stack.add_drive("vm1", raw)
    before = stack.copy(raw)
    nbdkit = stack.start_nbdkit(raw, "vm1")
    with nbd.Client(nbdkit.socket) as client:
        client.write(0, b"a" * 4096)
        fill_everything(marks)
        try:
            client.write(1 << 20, b"b" * 4096)
        except nbd.NbdError:
            pass
        else:
            raise AssertionError("a write succeeded though its mark could not")
        assert FULL in nbdkit.text(), nbdkit.text()
        assert client.read(0, 4096) == b"a" * 4096
        assert client.read(1 << 20, 4096) == bytes(4096)
        client.flush()
        marks.disk.make_room()
        marks.expect_recovery()
        client.write(2 << 20, b"c" * 4096)
        client.flush()
    nbdkit.stop()
    assert stack.compare(before, raw, "vm1/b")["changed"] == 2


def expect_reads_only(stack, marks):
    """Everything is there, and nothing can be changed."""
    marks.check()
    marks.expect_degraded(FULL)
    marks.must_fail(FULL)
    result = stack.ctl("bitmap", "create", "d/c", check=False)
    assert result.returncode == 1 and FULL in result.stderr, result
    marks.check()


def test_start_without_room_for_a_journal(stack):
    marks = Marks(stack)
    mark_all_chunks(marks)
    stack.daemon.stop()
    for name in ("journal.0", "journal.1"):
        os.unlink(marks.disk.path(name))
    marks.disk.fill()
    marks.start_daemon()
    expect_reads_only(stack, marks)
    marks.disk.make_room()
    marks.expect_recovery()
    marks.check_after_kill()


def test_start_without_room_for_what_was_replayed(stack):
    marks = Marks(stack)
    fill_everything(marks)
    for _ in range(2):
        stack.daemon.kill()
        marks.start_daemon()
        expect_reads_only(stack, marks)
    marks.disk.make_room()
    marks.expect_recovery()
    marks.check_after_kill()


TESTS = (
    test_container_has_no_room,
    test_filled_while_marks_go_on,
    test_journal_is_full_too,
    test_killed_while_full,
    test_guest,
    test_start_without_room_for_a_journal,
    test_start_without_room_for_what_was_replayed,
)


def main():
    e2e.need_tools(*small_disk.TOOLS, "nbdkit")
    e2e.need_root()
    for test in TESTS:
        with e2e.Stack() as stack:
            test(stack)


if __name__ == "__main__":
    main()
