# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many clients, slow ones, silent ones, and ones that send garbage: the others do not notice."""

import os
import random
import resource
import select
import socket
import struct
import time

from wire import *

MIB = 1 << 20
SEED = int(os.environ.get("BITMAPD_TEST_SEED", time.time()))


def prepared(daemon, size=1 << 36):
    client = daemon.client()
    drive = drive_id(client.must(DRIVE_ADD, drive_add("d", size)))
    client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
    return client, drive


def settle_down(daemon, descriptors):
    """Sessions of clients that are gone end soon."""
    for _ in range(200):
        if daemon.descriptors() <= descriptors + 3:  # the catalog's may come late
            return
        time.sleep(0.02)
    raise AssertionError("%d descriptors, %d before" % (daemon.descriptors(), descriptors))


def hundreds_of_clients():
    with Daemon() as daemon:
        client, drive = prepared(daemon)
        before = daemon.descriptors()
        crowd = [daemon.client() for _ in range(500)]
        for turn in range(20):
            for i, one in enumerate(crowd):
                one.request(MARK, mark(drive, [((turn * 500 + i) * 65536, 1)]))
            for one in crowd:
                assert one.reply()[2] == OK
        assert client.map("d/a") == [(0, 20 * 500 * 65536)]
        for one in crowd:
            one.close()
        settle_down(daemon, before)
        assert client.must(STATUS)


def one_client_too_many():
    with Daemon("limits:\n  connections: 10\n") as daemon:
        time.sleep(0.1)
        crowd = [daemon.client() for _ in range(10)]
        extra = daemon.client(greet=False)
        operation, _, status, cookie, body = extra.reply()
        assert (operation, status, cookie) == (0, LIMIT, 0) and b"limits.connections" in body
        try:
            extra.reply()
            raise AssertionError("the eleventh client was let in")
        except Closed:
            pass
        assert crowd[3].call(STATUS)[0] == OK
        crowd.pop().close()
        time.sleep(0.1)
        assert daemon.client().call(STATUS)[0] == OK


def out_of_descriptors():
    with Daemon() as daemon:
        daemon.stop()
        daemon.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        client, drive = prepared(daemon)
        crowd = []
        for _ in range(100):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(daemon.socket)
            crowd.append(one)
        # Those that are in work; the daemon does not spin; it goes on when some leave.
        client.must(MARK, mark(drive, [(0, 1)]))
        client.must(FLUSH)
        with open("/proc/%d/stat" % daemon.process.pid) as file:
            start = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(0.5)
        with open("/proc/%d/stat" % daemon.process.pid) as file:
            used = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) - start
        assert used < 25, used
        for one in crowd:
            one.close()
        assert daemon.client().call(STATUS)[0] == OK


def a_client_that_never_reads():
    with Daemon() as daemon:
        client, drive = prepared(daemon)
        pairs = [(i * 131072, 65536) for i in range(1 << 19)]
        for i in range(0, len(pairs), 60000):
            client.must(MARK, mark(drive, pairs[i:i + 60000]))
        base = daemon.rss()
        deaf = []
        for _ in range(20):
            one = daemon.client()
            one.socket.setblocking(False)
            # Maps of 8 MiB each, then requests until the daemon reads no more.
            data = b"".join(frame(MAP, text("d/a") + bytes(8), cookie=i) for i in range(8))
            data += frame(STATUS) * 100000
            try:
                while data:
                    data = data[one.socket.send(data):]
            except BlockingIOError:
                pass
            deaf.append(one)
        # The others are served, and what the deaf ones hold is bounded.
        for i in range(200):
            client.must(MARK, mark(drive, [(i * 65536, 65536)]))
        client.must(FLUSH)
        assert daemon.rss() - base < 20 * 4 * MIB + 40 * MIB, (daemon.rss() - base) // MIB
        # One that starts to read gets everything, in order.
        one = deaf[0]
        one.socket.setblocking(True)
        seen = 0
        while seen < 8:
            _, flags, status, cookie, body = one.reply()
            if status == OK and not flags & MORE and len(body) == 20:
                seen += 1
        for one in deaf:
            one.close()
        client.must(STATUS)


def silent_clients_are_ended():
    with Daemon() as daemon:
        client, _ = prepared(daemon)
        silent = [daemon.client(greet=False) for _ in range(5)]
        half = daemon.client()
        half.send(frame(STATUS)[:7])  # said HELLO: it may take its time
        for one in silent:
            assert select.select([one.socket], [], [], 20)[0]
        half.send(frame(STATUS)[7:])
        assert half.reply()[2] == OK


def clients_that_vanish():
    with Daemon() as daemon:
        client, drive = prepared(daemon)
        before = daemon.descriptors()
        rng = random.Random(SEED)
        for i in range(200):
            one = daemon.client()
            data = frame(BITMAP_CREATE, bitmap_create("d/v%d" % i)) * rng.randrange(3)
            data += frame(MAP, text("d/a") + bytes(8)) * rng.randrange(3)
            data += frame(MARK, mark(drive, [(i * 65536, 1)], first=1))
            data += frame(ATTACH, attach("d", "w%d" % (i % 5)))
            data += frame(DRIVE_ADD, drive_add("x%d" % i, 0, "/etc/hostname")) * rng.randrange(3)
            data += frame(RELOAD) * rng.randrange(2)
            one.send(data[:rng.randrange(len(data))])
            if rng.randrange(2):
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("ii", 1, 0))
            one.close()
        settle_down(daemon, before)
        client.must(FLUSH)
        client.must(DRIVE_FENCE, drive_change("d"))
        client.must(DRIVE_REMOVE, drive_change("d", flags=1))


def garbage():
    print("BITMAPD_TEST_SEED=%d" % SEED)
    rng = random.Random(SEED)
    samples = [
        (DRIVE_ADD, drive_add("e", MIB, "/tmp")), (DRIVE_LIST, b""), (DRIVE_SHOW, text("d")),
        (DRIVE_RENAME, drive_change("e", "f")), (DRIVE_REMOVE, drive_change("f", flags=1)),
        (BITMAP_CREATE, bitmap_create("d/b", 4096)), (BITMAP_LIST, text("")),
        (BITMAP_SET, bitmap_range("d/b", 0, 4096)), (BITMAP_DISABLE, change("d/b")),
        (BITMAP_MERGE, NONE + text("d/b") + struct.pack("<H", 1) + text("d/a")),
        (MAP, text("d/a") + bytes(8)), (MARK, mark(1, [(0, 65536), (MIB, 5)], first=1)),
        (SETTLE, settle(1, [(1, 1)])), (ATTACH, attach("d", "w")), (STATUS, b""),
        (RESUME, struct.pack("<Q", 1)), (DETACH, struct.pack("<Q", 1)), (FLUSH, b""),
    ]
    with Daemon() as daemon:
        client, drive = prepared(daemon)
        client.must(MARK, mark(drive, [(12345, 1)]))
        before = daemon.descriptors()
        for _ in range(400):
            one = daemon.client(greet=rng.randrange(8) > 0)
            for _ in range(rng.randrange(1, 20)):
                operation, payload = rng.choice(samples)
                data = bytearray(frame(operation, payload, cookie=rng.randrange(1 << 64)))
                for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
                    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255,
                                                                 rng.randrange(256)))
                if rng.randrange(10) == 0:
                    data = data[:rng.randrange(len(data))]
                try:
                    one.send(bytes(data))
                except (BrokenPipeError, ConnectionResetError):
                    break
            one.close()
        settle_down(daemon, before)
        client.must(STATUS)
        assert daemon.process.poll() is None
    # Whatever it took of this, it can be read again.


run([hundreds_of_clients, one_client_too_many, out_of_descriptors, a_client_that_never_reads,
     silent_clients_are_ended, clients_that_vanish, garbage])
