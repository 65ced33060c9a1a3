#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each kind of request, as qemu-io, nbdinfo, nbdcopy and a client of our own make
it: what becomes dirty, what is settled and when, and what the drive then holds."""

import errno
import json
import os

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 64 * GRANULE + 12345  # the last granule is cut, and so is the last sector


def clear(stack):
    stack.ctl("bitmap", "clear", "vm1/b", "--all")


def expect_dirty(stack, *ranges):
    found = stack.dirty_ranges("vm1/b")
    assert found == list(ranges), f"expected {list(ranges)}, found {found}"


def wait_settled(stack, unsettled=0):
    """Settles have no answer that a client could wait for."""
    e2e.wait_until(
        lambda: stack.unsettled("vm1") == unsettled, f"{unsettled} marks are unsettled")


def expect_errno(expected, function, *arguments):
    try:
        function(*arguments)
    except nbd.NbdError as error:
        assert error.errno == expected, f"expected errno {expected}, found {error}"
    else:
        raise AssertionError(f"{function.__name__}{arguments} succeeded")


def test_tools(stack, nbdkit, raw):
    before = stack.copy(raw)
    clear(stack)
    result = e2e.run(
        "qemu-io", "-f", "raw", nbdkit.uri,
        "-c", f"write -P 1 {GRANULE} 512",
        "-c", f"write -P 2 {3 * GRANULE - 512} 1024",
        "-c", f"write -P 3 -f {6 * GRANULE} {GRANULE}",
        "-c", f"write -P 4 {10 * GRANULE} {2 * GRANULE}",
        "-c", f"write -z {10 * GRANULE} 4096",
        "-c", f"write -z -u {11 * GRANULE} {GRANULE}",
        "-c", f"discard {12 * GRANULE} {GRANULE}",
        "-c", "flush",
        "-c", f"read -P 3 {6 * GRANULE} {GRANULE}",
        "-c", f"read -P 0 {10 * GRANULE} 4096",
        "-c", f"read -P 4 {10 * GRANULE + 4096} {GRANULE - 4096}")
    assert "failed" not in result.stdout + result.stderr, result.stdout + result.stderr
    wait_settled(stack)
    expect_dirty(
        stack, (GRANULE, 3 * GRANULE), (6 * GRANULE, GRANULE), (10 * GRANULE, 3 * GRANULE))
    assert stack.compare(before, raw, "vm1/b")["changed"] == 5

    # Allocated is what was written and not punched out.
    extents = json.loads(e2e.run("nbdinfo", "--map", "--json", nbdkit.uri).stdout)
    assert extents[0]["offset"] == 0
    assert sum(extent["length"] for extent in extents) == SIZE
    data = {
        offset // 4096
        for extent in extents if extent["type"] == 0
        for offset in range(extent["offset"], extent["offset"] + extent["length"], 4096)}
    assert {GRANULE // 4096, 6 * GRANULE // 4096, 11 * GRANULE // 4096 - 1} <= data, extents
    assert not {0, 11 * GRANULE // 4096, 12 * GRANULE // 4096, SIZE // 4096} & data, extents

    clear(stack)
    source = stack.path("source")
    with open(source, "wb") as file:
        file.write(os.urandom(SIZE))
    e2e.run("nbdcopy", "--flush", source, nbdkit.uri)
    wait_settled(stack)
    expect_dirty(stack, (0, SIZE))
    e2e.run("cmp", source, raw)
    back = stack.path("back")
    e2e.run("nbdcopy", nbdkit.uri, back)
    e2e.run("cmp", source, back)


def test_flags(client):
    assert client.size == SIZE, client.size
    for flag in (nbd.HAS_FLUSH, nbd.HAS_FUA, nbd.HAS_TRIM, nbd.HAS_ZERO, nbd.CAN_MULTI_CONN,
                 nbd.HAS_FAST_ZERO):
        assert client.flags & flag, f"flag {flag} is missing in {client.flags:#x}"


def test_edges(stack, client):
    clear(stack)
    client.write(0, b"a")
    client.write(SIZE - 1, b"z")
    client.write(2 * GRANULE - 1, b"mn")
    client.flush()
    wait_settled(stack)
    expect_dirty(
        stack, (0, 3 * GRANULE), (64 * GRANULE, 12345))
    assert client.read(SIZE - 1, 1) == b"z" and client.read(2 * GRANULE - 1, 2) == b"mn"
    # Out of the drive: nothing is marked.
    clear(stack)
    expect_errno(errno.ENOSPC, client.write, SIZE - 1, b"zz")
    expect_dirty(stack)


def test_settling(stack, client, other):
    """What is not stable stays dirty through a clear; what is does not."""
    clear(stack)
    client.write(4 * GRANULE, b"x" * 1000)
    wait_settled(stack, 1)
    clear(stack)
    expect_dirty(stack, (4 * GRANULE, GRANULE))

    # A flush on any connection covers it.
    other.flush()
    wait_settled(stack)
    expect_dirty(stack, (4 * GRANULE, GRANULE))
    clear(stack)
    expect_dirty(stack)

    # FUA is a flush of its own, for all three kinds.
    for request in (
            lambda: client.write(5 * GRANULE, b"x" * 1000, nbd.FUA),
            lambda: client.zero(5 * GRANULE, 1000, nbd.FUA),
            lambda: client.trim(5 * GRANULE, GRANULE, nbd.FUA)):
        request()
        wait_settled(stack)
        expect_dirty(stack, (5 * GRANULE, GRANULE))
        clear(stack)
        expect_dirty(stack)


def test_zero_and_trim(stack, client, raw):
    client.write(20 * GRANULE, b"q" * (4 * GRANULE), nbd.FUA)
    clear(stack)
    client.zero(20 * GRANULE + 10, 100)
    client.zero(21 * GRANULE, GRANULE, nbd.NO_HOLE)
    client.zero(22 * GRANULE, GRANULE)
    client.trim(23 * GRANULE + 4096, 4096)
    client.flush()
    wait_settled(stack)
    expect_dirty(stack, (20 * GRANULE, 4 * GRANULE))
    assert client.read(20 * GRANULE, 120) == b"q" * 10 + bytes(100) + b"q" * 10
    assert client.read(21 * GRANULE, 2 * GRANULE) == bytes(2 * GRANULE)
    assert client.read(23 * GRANULE, GRANULE) == b"q" * 4096 + bytes(4096) + b"q" * (GRANULE - 8192)
    assert os.path.getsize(raw) == SIZE

    # A fast zero works or changes nothing.
    client.write(24 * GRANULE, b"f" * 4096, nbd.FUA)
    try:
        client.zero(24 * GRANULE, 4096, nbd.FAST_ZERO)
        expected = bytes(4096)
    except nbd.NbdError as error:
        assert error.errno == errno.EOPNOTSUPP, error
        expected = b"f" * 4096
    assert client.read(24 * GRANULE, 4096) == expected


def test_in_flight(stack, client):
    """More requests at once than there are worker threads."""
    clear(stack)
    sent = {client.send(nbd.WRITE, i * GRANULE, data=bytes([i]) * 512) for i in range(64)}
    while sent:
        cookie, error, _ = client.reply()
        assert error == 0, error
        sent.remove(cookie)
    client.flush()
    wait_settled(stack)
    expect_dirty(stack, (0, 64 * GRANULE))
    for i in range(64):
        assert client.read(i * GRANULE, 512) == bytes([i]) * 512


def test_mark_align(stack, raw):
    clear(stack)
    nbdkit = stack.start_nbdkit(raw, "vm1", "mark-align=1M")
    with nbd.Client(nbdkit.socket) as client:
        for i in range(16):
            client.write((1 << 20) + i * 4096, b"a" * 4096)
        assert stack.unsettled("vm1") == 1  # all under one mark
        client.write(SIZE - 10, b"a" * 10)
        client.flush()
    wait_settled(stack)
    expect_dirty(stack, (1 << 20, 1 << 20), (4 << 20, SIZE - (4 << 20)))
    nbdkit.stop()


def test_read_only(stack, raw):
    clear(stack)
    nbdkit = stack.start_nbdkit(raw, "vm1", options=("--readonly",))
    with nbd.Client(nbdkit.socket) as client:
        client.read(0, 4096)
        expect_errno(errno.EPERM, client.write, 0, b"a")
    nbdkit.stop()
    expect_dirty(stack)


def main():
    e2e.need_tools("nbdkit", "qemu-io", "nbdinfo", "nbdcopy")
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        stack.start_daemon()
        stack.add_drive("vm1", raw)
        nbdkit = stack.start_nbdkit(raw, "vm1")
        test_tools(stack, nbdkit, raw)
        with nbd.Client(nbdkit.socket) as client, nbd.Client(nbdkit.socket) as other:
            test_flags(client)
            test_edges(stack, client)
            test_settling(stack, client, other)
            test_zero_and_trim(stack, client, raw)
            test_in_flight(stack, client)
        nbdkit.stop()
        test_mark_align(stack, raw)
        test_read_only(stack, raw)


if __name__ == "__main__":
    main()
