#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""on-lost=continue: the daemon is away for longer than the reconnect-timeout, and the guest
goes on.  What was recorded is unknown then, and once the plugin has come back and a
checkpoint was made, increments are exact again."""

import json
import os
import random
import signal
import time

import nbd
import stack as e2e
from backups import freeze
from consumers import DONE, UNKNOWN, copy_ranges, files_are_equal
from writers import Crowd

GRANULE = 65536
SIZE = 256 * GRANULE + 512
ROUNDS = 3


class Guest:
    """A drive with a copy of it."""

    def __init__(self, stack, rng):
        self.stack = stack
        self.random = rng
        self.raw = stack.make_raw("raw", SIZE)
        self.copy = stack.path("copy")
        self.checkpoints = 0
        stack.start_daemon()
        stack.ctl("drive", "add", "vm1", "--path", self.raw)

    def start(self, timeout_s):
        self.nbdkit = self.stack.start_nbdkit(
            self.raw, "vm1", "on-lost=continue", f"reconnect-timeout={timeout_s}")

    def checkpoint(self):
        self.checkpoints += 1
        name = f"c{self.checkpoints}"
        self.stack.ctl("checkpoint", "create", name, "vm1")
        return name

    def full(self):
        name = self.checkpoint()
        self.stack.copy(self.raw, "copy")
        return name

    def map(self, since):
        """(exit code, stderr, dirty ranges)."""
        result = self.stack.ctl("-o", "ndjson", "map", "vm1", "--since", since, check=False)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert lines[-1]["complete"], lines
        return result.returncode, lines[0], [
            (line["byte_offset"], line["size_bytes"]) for line in lines[1:-1]]

    def verify(self, since):
        return self.stack.ctl(
            "verify", "vm1", "--since", since, "--against", self.copy, check=False).returncode

    def expect_unknown(self, since):
        code, head, dirty = self.map(since)
        assert code == UNKNOWN and dirty == [(0, SIZE)], (code, head, dirty)
        assert head["validity"] == "unknown" and "goes on without" in head["reason"], head
        assert self.verify(since) == UNKNOWN

    def expect_exact(self, since):
        """Brings the copy up to date with an increment."""
        code, head, dirty = self.map(since)
        assert code == DONE and head["validity"] == "exact", (code, head)
        assert self.verify(since) == DONE
        copy_ranges(self.raw, self.copy, dirty)
        assert files_are_equal(self.raw, self.copy), "the increment is not enough"
        return dirty

    def wait_until_resumed(self):
        """Attached is not enough; only then is what begins exact."""
        def resumed():
            name = self.checkpoint()
            return self.map(name)[1]["validity"] == "exact"

        e2e.wait_until(resumed, "the writer is back")


def test_long_outage(guest):
    stack = guest.stack
    guest.start(1)
    with nbd.Client(guest.nbdkit.socket) as client:
        client.write(GRANULE, b"a" * 512)
        old = guest.full()
        sealed = guest.checkpoint()
        client.write(2 * GRANULE, b"b" * 512)
        stack.daemon.kill()
        began = time.monotonic()
        client.write(3 * GRANULE, b"c" * 512)
        assert time.monotonic() - began > 0.9, "a write did not wait for the reconnect-timeout"
        for i in range(4, 20):
            client.write(i * GRANULE, b"d" * 512)  # at once
        client.zero(2 * GRANULE, 4096)
        client.trim(GRANULE, GRANULE)
        client.flush()
        client.write(20 * GRANULE, b"e" * 512)  # not stable
        assert guest.nbdkit.text().count("writes go on without marks") == 1, guest.nbdkit.text()
        # The start knows, before the writer is back.
        freeze(guest.nbdkit)
        stack.start_daemon()
        guest.expect_unknown(old)
        guest.nbdkit.signal(signal.SIGCONT)
        guest.wait_until_resumed()
        client.write(21 * GRANULE, b"f" * 512)
        guest.expect_unknown(old)
        guest.expect_unknown(sealed)
        # What had been sealed before is of no doubt.
        assert stack.ctl("map", "vm1", "--since", old, "--until", sealed).returncode == DONE

        base = guest.full()
        client.write(22 * GRANULE, b"g" * 512)
        client.write(21 * GRANULE, b"h" * 512)  # under a mark from before the checkpoint
        dirty = guest.expect_exact(base)
        assert sum(length for _, length in dirty) <= 2 * GRANULE, dirty
        client.flush()
        guest.expect_unknown(old)
    guest.nbdkit.stop()
    assert "could not be detached" not in guest.nbdkit.text()
    assert guest.nbdkit.text().count("writes go on without marks") == 1, guest.nbdkit.text()


def test_short_outage(guest):
    """Nothing is written without a mark, but who shall know."""
    guest.start(60)
    with nbd.Client(guest.nbdkit.socket) as client:
        base = guest.full()
        client.write(GRANULE, b"a" * 512)
        guest.stack.daemon.kill()
        guest.stack.start_daemon()
        guest.wait_until_resumed()
        guest.expect_unknown(base)
        base = guest.full()
        client.write(3 * GRANULE, b"b" * 512, nbd.FUA)
        # The first was marked again and is not stable before the checkpoint.
        assert guest.expect_exact(base) == [(GRANULE, GRANULE), (3 * GRANULE, GRANULE)]
    guest.nbdkit.stop()
    assert "without marks" not in guest.nbdkit.text()


def test_plugin_dies(guest):
    """Who can tell that it is dead, and not only its connection."""
    guest.start(60)
    with nbd.Client(guest.nbdkit.socket) as client:
        base = guest.full()
        client.write(GRANULE, b"a" * 512)
    guest.nbdkit.kill()
    e2e.wait_until(
        lambda: guest.stack.ctl_json("drive", "show", "vm1")["lost_writers"] == 1,
        "the daemon notices")
    guest.expect_unknown(base)
    guest.stack.restart_daemon()
    guest.expect_unknown(base)
    guest.start(60)
    base = guest.full()
    with nbd.Client(guest.nbdkit.socket) as client:
        client.write(3 * GRANULE, b"b" * 512)
    assert guest.expect_exact(base) == [(3 * GRANULE, GRANULE)]
    guest.nbdkit.stop()


def test_ends_while_away(guest):
    """nbdkit dies, or is stopped, while it goes on: unknown until its token is back."""
    for end in (lambda nbdkit: nbdkit.kill(), lambda nbdkit: nbdkit.stop()):
        guest.start(0)
        base = guest.full()
        guest.stack.daemon.stop()
        with nbd.Client(guest.nbdkit.socket) as client:
            client.write(5 * GRANULE, b"a" * 512)
        end(guest.nbdkit)
        guest.stack.start_daemon()
        guest.expect_unknown(base)
        doubtful = guest.full()
        guest.expect_unknown(doubtful)  # its writer may still be there
        guest.start(0)
        guest.expect_unknown(doubtful)
        base = guest.full()
        with nbd.Client(guest.nbdkit.socket) as client:
            client.write(7 * GRANULE, b"b" * 512)
        assert guest.expect_exact(base) == [(7 * GRANULE, GRANULE)]
        guest.nbdkit.stop()


def test_given_up_while_away(guest):
    """The operator gives the writer up although it lives: it finds out, and marks everything.
    The daemon may find out, too, by the evidence; either way all is dirty."""
    guest.start(0)
    with nbd.Client(guest.nbdkit.socket) as client:
        guest.stack.daemon.stop()
        client.write(5 * GRANULE, b"a" * 512)
        freeze(guest.nbdkit)
        guest.stack.start_daemon()
        guest.stack.ctl("drive", "fence", "vm1")
        base = guest.full()
        client.send(nbd.WRITE, 9 * GRANULE, data=b"b" * 512)
        guest.nbdkit.signal(signal.SIGCONT)
        assert client.reply()[1] == 0

        def attached():
            return guest.stack.ctl_json("drive", "show", "vm1")["writers"] == 1

        e2e.wait_until(attached, "the plugin is attached")
        e2e.wait_until(
            lambda: "the whole drive is marked" in guest.nbdkit.text(), "the plugin says so")
        assert guest.map(base)[2] == [(0, SIZE)]
    guest.nbdkit.stop()


def test_writers_go_on(guest):
    """Many requests at each moment of the outages: none fails, and nothing is missed after."""
    guest.start(0)
    crowd = Crowd(guest.nbdkit.socket, SIZE, guest.random.randrange(1 << 32))
    for _ in range(int(os.environ.get("BITMAPD_TEST_ROUNDS", ROUNDS))):
        crowd.move()
        freeze(guest.nbdkit)
        base = guest.full()
        guest.nbdkit.signal(signal.SIGCONT)
        crowd.wait_for_requests(30)
        guest.stack.daemon.kill()
        crowd.wait_for_requests(guest.random.randrange(1, 200))
        crowd.move()
        guest.stack.start_daemon()
        guest.wait_until_resumed()
        freeze(guest.nbdkit)
        guest.expect_unknown(base)
        base = guest.full()
        guest.nbdkit.signal(signal.SIGCONT)
        # Among what comes now are writes that were marked before the checkpoint.
        crowd.move()
        crowd.wait_for_requests(60)
        crowd.pause()
        dirty = guest.expect_exact(base)
        assert sum(length for _, length in dirty) < SIZE
        crowd.go_on()
    crowd.end()
    guest.nbdkit.stop()


def main():
    e2e.need_tools("nbdkit", "cmp")
    rng = random.Random(e2e.seed())
    with e2e.Stack() as stack:
        guest = Guest(stack, rng)
        for test in (test_long_outage, test_short_outage, test_plugin_dies, test_ends_while_away,
                     test_given_up_while_away, test_writers_go_on):
            began = time.monotonic()
            test(guest)
            print(f"{test.__name__}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
