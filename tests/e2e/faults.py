#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The drive fails: a failed write stays dirty, a failed flush ends all settling, and
the next start puts things right.  And a limit that is small makes the plugin flush
by itself.  strace makes the calls fail."""

import errno

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 64 * GRANULE


def start_under_strace(stack, raw, call, what):
    """strace counts the calls of each thread, so that there is to be one for requests."""
    return stack.start_nbdkit(
        raw, "vm1", options=("--threads", "1"),
        under=["strace", "-D", "-f", "-q", "-o", stack.path("strace.log"),
               "-e", f"trace={call}", "-e", f"inject={call}:{what}"])


def expect_errno(expected, function, *arguments):
    try:
        function(*arguments)
    except nbd.NbdError as error:
        assert error.errno == expected, f"expected errno {expected}, found {error}"
    else:
        raise AssertionError(f"{function.__name__}{arguments} succeeded")


def wait_unsettled(stack, count):
    e2e.wait_until(lambda: stack.unsettled("vm1") == count, f"{count} marks are unsettled")


def clear(stack):
    stack.ctl("bitmap", "clear", "vm1/b", "--all")


def expect_dirty(stack, *ranges):
    found = stack.dirty_ranges("vm1/b")
    assert found == list(ranges), f"expected {list(ranges)}, found {found}"


def start_again(stack, raw):
    """A new plugin makes everything stable; nothing is unsettled then."""
    assert stack.ctl_json("drive", "show", "vm1")["lost_writers"] == 1
    nbdkit = stack.start_nbdkit(raw, "vm1")
    drive = stack.ctl_json("drive", "show", "vm1")
    assert drive["lost_writers"] == 0 and drive["unsettled"] == 0, drive
    clear(stack)
    expect_dirty(stack)
    nbdkit.stop()


def test_failed_write(stack, raw):
    clear(stack)
    nbdkit = start_under_strace(stack, raw, "pwrite64", "error=ENOSPC:when=2")
    with nbd.Client(nbdkit.socket) as client:
        client.write(GRANULE, b"a" * 512)
        expect_errno(errno.ENOSPC, client.write, 3 * GRANULE, b"b" * 512)
        client.flush()
        wait_unsettled(stack, 1)
        clear(stack)
        expect_dirty(stack, (3 * GRANULE, GRANULE))
        # The same again succeeds, and its range stays dirty: who knows what the first one did.
        client.write(3 * GRANULE, b"b" * 512, nbd.FUA)
        assert stack.unsettled("vm1") == 1
        assert client.read(3 * GRANULE, 512) == b"b" * 512
    nbdkit.stop()
    assert "could not be detached" in nbdkit.text(), nbdkit.text()
    start_again(stack, raw)


def test_failed_flush(stack, raw):
    clear(stack)
    nbdkit = start_under_strace(stack, raw, "fdatasync", "error=EIO:when=2")
    with nbd.Client(nbdkit.socket) as client:
        client.write(GRANULE, b"a" * 512, nbd.FUA)
        wait_unsettled(stack, 0)
        client.write(2 * GRANULE, b"a" * 512)
        expect_errno(errno.EIO, client.flush)
        expect_errno(errno.EIO, client.flush)  # for good, though the third call would succeed
        expect_errno(errno.EIO, client.write, 4 * GRANULE, b"a" * 512, nbd.FUA)
        client.write(6 * GRANULE, b"a" * 512)
        clear(stack)
        expect_dirty(
            stack, (2 * GRANULE, GRANULE), (4 * GRANULE, GRANULE), (6 * GRANULE, GRANULE))
        assert stack.unsettled("vm1") == 3
    nbdkit.stop()
    assert nbdkit.text().count("making writes stable failed") == 1, nbdkit.text()
    start_again(stack, raw)


def test_refused_fast_zero(stack, raw):
    """A fast zero that cannot be is no failed write: the next flush settles its mark."""
    clear(stack)
    nbdkit = start_under_strace(stack, raw, "fallocate", "error=EOPNOTSUPP")
    with nbd.Client(nbdkit.socket) as client:
        client.write(GRANULE, b"a" * 512)
        expect_errno(errno.EOPNOTSUPP, client.zero, 0, SIZE, nbd.FAST_ZERO | nbd.NO_HOLE)
        assert client.read(GRANULE, 512) == b"a" * 512
        client.flush()
        wait_unsettled(stack, 0)
        clear(stack)
        expect_dirty(stack)
    nbdkit.stop()
    assert "detached" not in nbdkit.text(), nbdkit.text()


def test_small_limit(stack, raw):
    stack.daemon.stop()
    config = stack.path("bitmapd.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("limits:\n  unsettled_per_writer: 16\n")
    stack.start_daemon("--config", config)
    clear(stack)
    nbdkit = stack.start_nbdkit(raw, "vm1")
    with nbd.Client(nbdkit.socket) as client:
        sent = {client.send(nbd.WRITE, i * 4096, data=b"n" * 4096) for i in range(300)}
        while sent:
            cookie, error, _ = client.reply()
            assert error == 0, error
            sent.remove(cookie)
        assert stack.unsettled("vm1") <= 16
    nbdkit.stop()
    assert "error" not in nbdkit.text(), nbdkit.text()
    expect_dirty(stack, (0, -(-300 * 4096 // GRANULE) * GRANULE))


def main():
    e2e.need_tools("nbdkit", "strace")
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        stack.start_daemon()
        stack.add_drive("vm1", raw)
        test_failed_write(stack, raw)
        test_failed_flush(stack, raw)
        test_refused_fast_zero(stack, raw)
        test_small_limit(stack, raw)


if __name__ == "__main__":
    main()
