# SPDX-License-Identifier: LGPL-2.1-or-later
"""A day of a host with 1,000 drives and as many connections, in seconds: guests that mark and
settle, a checkpoint of every drive each hour and an increment from it, retention, write-backs; and
clients that behave badly all the time.  Memory and descriptors stay flat, nobody waits for them,
and what was marked is in the increments.

BITMAPD_TEST_ROUNDS: days; BITMAPD_TEST_SEED: of all chance.
"""

import os
import random
import resource
import selectors
import socket
import struct
import time

from wire import *

DRIVES = 1000
HOURS = 24
HOUR_S = 0.3  # of marks, besides its checkpoint and increments
SIZE = 1 << 30
G = 64 << 10
WARM_HOURS = 12  # until retention has everything in its place
KEPT = 6
CONFIG = f"""
limits: {{connections: 1200}}
retention: {{count: {KEPT}}}
flush: {{interval: 1s}}
log: {{level: notice}}
"""
TOLERANCE_BYTES = 24 << 20


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000


class Guest:
    """One connection, attached to one drive: marks some granules, settles them, goes on."""

    def __init__(self, daemon, number, chance):
        self.name = f"vm{number}"
        self.chance = chance
        self.client = daemon.client()
        self.drive = drive_id(self.client.must(DRIVE_ADD, drive_add(self.name, SIZE, durability=1 + number % 2)))
        self.client.must(ATTACH, attach(self.name, f"guest{number}"))
        self.client.socket.setblocking(False)
        self.next_id = 1
        self.sent_at = None
        self.marked = set()  # since the last checkpoint
        self.asked = None

    def mark(self):
        count = self.chance.choice((1, 1, 1, 4, 16))
        first = self.chance.randrange(SIZE // G - count)
        self.asked = set(range(first, first + count))
        self.first_id, self.next_id = self.next_id, self.next_id + count
        pairs = [((first + i) * G, 4096) for i in range(count)]
        self.client.send(frame(MARK, mark(self.drive, pairs, self.first_id), 1))
        self.sent_at = time.monotonic()

    def answered(self, latencies):
        """A mark's answer: it is settled, which is not waited for; False for another answer."""
        operation, _, status, _, body = self.client.reply()
        assert status == OK, (operation, status, body)
        if operation != MARK:
            return False
        latencies.append(time.monotonic() - self.sent_at)
        self.marked |= self.asked
        self.client.send(frame(SETTLE, struct.pack("<Q", self.drive) +
                               ranges([(self.first_id, len(self.asked))]), 2))
        return True


class Nuisance:
    """Who asks and never reads, who sends half a frame, and who comes and goes."""

    def __init__(self, daemon, guests):
        self.daemon = daemon
        self.deaf = daemon.client()
        self.deaf.socket.setblocking(False)
        self.half = daemon.client()
        self.half.send(frame(MARK, bytes(64))[:40])
        self.names = [guest.name for guest in guests]

    def go_on(self, chance):
        try:
            for name in chance.sample(self.names, 20):
                self.deaf.socket.send(frame(DRIVE_SHOW, text(name), 9))
                self.deaf.socket.send(frame(DRIVE_LIST, b"", 10))
        except BlockingIOError:
            pass
        flood = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for one in flood:
            one.settimeout(5)
            one.connect(self.daemon.socket)
        flood[0].send(os.urandom(100))
        for one in flood:
            one.close()

    def close(self):
        self.deaf.close()
        self.half.close()


def work(guests, selector, seconds, latencies):
    for guest in guests:
        guest.mark()
    busy, end = len(guests), time.monotonic() + seconds
    while busy > 0:
        ready = selector.select(10)
        assert ready, "no answer within ten seconds"
        for key, _ in ready:
            guest, more = key.data, True
            while more:
                if guest.answered(latencies):
                    if time.monotonic() < end:
                        guest.mark()
                    else:
                        busy -= 1
                more = len(guest.client.buffer) >= 16  # came along; select(2) does not see it


def drain(guests):
    """The answers of settles are still to come: a request on each connection waits for them."""
    for guest in guests:
        guest.client.socket.setblocking(True)
        cookie = 77
        guest.client.send(frame(DRIVE_SHOW, text(guest.name), cookie))
        while True:
            operation, _, status, answered, body = guest.client.reply()
            assert status == OK, (operation, status, body)
            if answered == cookie:
                break
        guest.client.socket.setblocking(False)


def back_up(client, guests, previous, name):
    client.must(CHECKPOINT_CREATE, checkpoint_create(name, [guest.name for guest in guests]))
    for guest in guests[::10] if previous else ():
        head, runs = client.since(guest.name, previous, name)
        assert head["validity"] == EXACT, head
        found = {i for offset, length in runs for i in range(offset // G, (offset + length) // G)}
        assert guest.marked <= found, (guest.name, len(guest.marked - found))
    for guest in guests:
        guest.marked.clear()


def a_day():
    seed = int(os.environ.get("BITMAPD_TEST_SEED", random.randrange(1 << 32)))
    days = int(os.environ.get("BITMAPD_TEST_ROUNDS", 1))
    print(f"BITMAPD_TEST_SEED={seed}", flush=True)
    chance = random.Random(seed)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with Daemon(CONFIG) as daemon:
        guests = [Guest(daemon, i, chance) for i in range(DRIVES)]
        operator = daemon.client()
        nuisance = Nuisance(daemon, guests)
        selector = selectors.DefaultSelector()
        for guest in guests:
            selector.register(guest.client.socket, selectors.EVENT_READ, guest)
        latencies, before, previous = [], None, None
        for hour in range(HOURS * days):
            nuisance.go_on(chance)
            work(guests, selector, HOUR_S, latencies)
            drain(guests)
            name = f"h{hour}"
            back_up(operator, guests, previous, name)
            previous = name
            if hour == WARM_HOURS - 1:
                before = (daemon.rss(), daemon.descriptors())
        nuisance.go_on(chance)
        operator.must(FLUSH)
        time.sleep(0.2)
        after = (daemon.rss(), daemon.descriptors())
        print(f"{len(latencies)} marks of {DRIVES} guests in flight: "
              f"p50 {percentile(latencies, 0.5):.2f} ms, p99 {percentile(latencies, 0.99):.2f} ms, "
              f"p99.9 {percentile(latencies, 0.999):.2f} ms; memory {before[0] >> 20} MiB, then "
              f"{after[0] >> 20} MiB; descriptors {before[1]}, then {after[1]}", flush=True)
        assert after[0] <= before[0] + TOLERANCE_BYTES, (before, after)
        assert after[1] <= before[1] + 4, (before, after)
        assert len(operator.checkpoints("vm0")) == KEPT
        for guest in guests:
            guest.client.socket.setblocking(True)
            guest.client.must(DETACH, struct.pack("<Q", guest.drive))
            guest.client.close()
        nuisance.close()
        operator.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


if __name__ == "__main__":
    run((a_day,))
