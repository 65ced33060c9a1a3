#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon is away, for a short and for a long time, dies, and the plugin dies:
writes wait or fail, nothing that was written is ever clean."""

import errno
import threading

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 128 * GRANULE


def expect_eio(client, offset):
    try:
        client.write(offset, b"e" * 512)
    except nbd.NbdError as error:
        assert error.errno == errno.EIO, error
    else:
        raise AssertionError("a write succeeded without the daemon")


def write_until_it_succeeds(client, offset):
    def attempt():
        try:
            client.write(offset, b"w" * 512)
            return True
        except nbd.NbdError as error:
            assert error.errno == errno.EIO, error
            return False

    e2e.wait_until(attempt, "writes go on")


def lost_writers(stack):
    return stack.ctl_json("drive", "show", "vm1")["lost_writers"]


def test_short(stack, raw):
    """Within the time-out a write waits, and then succeeds."""
    nbdkit = stack.start_nbdkit(raw, "vm1", "reconnect-timeout=60")
    with nbd.Client(nbdkit.socket) as client:
        client.write(0, b"a" * 512)
        stack.daemon.stop()
        outcome = []

        def write():
            client.write(GRANULE, b"b" * 512)
            outcome.append(True)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.3)
        assert not outcome, "a write did not wait for its mark"
        stack.start_daemon()
        thread.join(e2e.WAIT_S)
        assert outcome, "the write did not go on"
        # The first one was marked again: not stable yet, so it is carried through a clear.
        stack.ctl("bitmap", "clear", "vm1/b", "--all")
        assert stack.dirty_ranges("vm1/b") == [(0, 2 * GRANULE)]
        client.flush()
    nbdkit.stop()
    assert "error" not in nbdkit.text(), nbdkit.text()


def test_long(stack, raw):
    """Beyond it writes fail, reads and flushes do not, and it mends by itself."""
    nbdkit = stack.start_nbdkit(raw, "vm1", "reconnect-timeout=1")
    with nbd.Client(nbdkit.socket) as client:
        client.write(2 * GRANULE, b"a" * 512)
        stack.daemon.stop()
        for i in range(5):
            expect_eio(client, (3 + i) * GRANULE)
        expect_eio(client, 2 * GRANULE)  # its mark is there, the connection is not
        assert client.read(2 * GRANULE, 512) == b"a" * 512
        client.flush()
        assert nbdkit.text().count("writes fail until it is back") == 1, nbdkit.text()
        stack.start_daemon()
        write_until_it_succeeds(client, 20 * GRANULE)
        assert lost_writers(stack) == 0
        client.flush()
        e2e.wait_until(lambda: stack.unsettled("vm1") == 0, "everything is settled")
    nbdkit.stop()


def test_plugin_dies(stack, raw):
    """What it had not settled stays dirty until it is back and has made it stable."""
    nbdkit = stack.start_nbdkit(raw, "vm1")
    client = nbd.Client(nbdkit.socket)
    client.write(30 * GRANULE, b"k" * 512)
    nbdkit.kill()
    e2e.wait_until(lambda: lost_writers(stack) == 1, "the daemon notices")
    stack.ctl("bitmap", "clear", "vm1/b", "--all")
    dirty = stack.dirty_ranges("vm1/b")
    assert any(o <= 30 * GRANULE < o + l for o, l in dirty), f"the write was lost: {dirty}"

    nbdkit = stack.start_nbdkit(raw, "vm1")
    assert lost_writers(stack) == 0 and stack.unsettled("vm1") == 0
    stack.ctl("bitmap", "clear", "vm1/b", "--all")
    assert stack.dirty_ranges("vm1/b") == []
    nbdkit.stop()


def test_daemon_dies(stack, raw):
    """It comes back knowing all that it had acknowledged; the writer goes on, and its unsettled
    write is still there when the bitmap begins anew."""
    nbdkit = stack.start_nbdkit(raw, "vm1", "reconnect-timeout=60")
    with nbd.Client(nbdkit.socket) as client:
        client.write(40 * GRANULE, b"d" * 512)
        stack.daemon.kill()
        stack.start_daemon()
        client.write(41 * GRANULE, b"d" * 512)
        dirty = stack.dirty_ranges("vm1/b")
        assert any(o <= 40 * GRANULE and 42 * GRANULE <= o + l for o, l in dirty), dirty

        stack.ctl("bitmap", "clear", "vm1/b", "--all")
        assert stack.dirty_ranges("vm1/b") == [(40 * GRANULE, 2 * GRANULE)]
        before = stack.copy(raw)
        client.write(44 * GRANULE, b"d" * 512, nbd.FUA)
    nbdkit.stop()
    assert stack.compare(before, raw, "vm1/b")["changed"] == 1


def test_killed_daemon_stays_away(stack, raw):
    """nbdkit can be stopped without it, and the next start puts the writer right."""
    nbdkit = stack.start_nbdkit(raw, "vm1", "reconnect-timeout=60")
    with nbd.Client(nbdkit.socket) as client:
        client.write(50 * GRANULE, b"s" * 512, nbd.FUA)
        stack.daemon.stop()
    nbdkit.stop()
    assert "could not be detached" in nbdkit.text(), nbdkit.text()
    stack.start_daemon()
    assert lost_writers(stack) == 1
    nbdkit = stack.start_nbdkit(raw, "vm1")
    assert lost_writers(stack) == 0
    nbdkit.stop()


def main():
    e2e.need_tools("nbdkit")
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        stack.start_daemon()
        stack.add_drive("vm1", raw)
        test_short(stack, raw)
        test_long(stack, raw)
        test_plugin_dies(stack, raw)
        test_daemon_dies(stack, raw)
        test_killed_daemon_stays_away(stack, raw)


if __name__ == "__main__":
    main()
