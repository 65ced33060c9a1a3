# SPDX-License-Identifier: LGPL-2.1-or-later
"""Conversations with the daemon: what is said, and what has to be answered."""

import os
import random
import struct
import sys
import time

from wire import *

KIB, MIB = 1 << 10, 1 << 20


def closed(client):
    """The daemon ends the connection, after at most some replies."""
    try:
        while True:
            client.reply()
    except Closed:
        return True


def hello_comes_first():
    with Daemon() as daemon:
        client = daemon.client(greet=False)
        status, _ = client.call(STATUS)
        assert status == MALFORMED and closed(client)

        client = daemon.client(greet=False)
        status, body = client.call(HELLO, hello(low=7, high=9))
        assert status == VERSION and b"7 to 9" in body and closed(client)

        client = daemon.client(greet=False)
        status, _ = client.call(HELLO, hello(magic=1))
        assert status == MALFORMED and closed(client)

        # A newer client's versions and fields: the highest in common, unknown features ignored.
        client = daemon.client(greet=False)
        status, body = client.call(HELLO, struct.pack("<IHHQ", 0x44504d42, 1, 99, 2**64 - 1) +
                                   text(b"\xff\n\x01x" * 50))
        version, features, frame_max, requests, unsettled = struct.unpack_from("<HQIII", body)
        assert status == OK and version == 1 and features == 0, body
        assert frame_max == MIB, frame_max
        assert requests == 1024 and unsettled == 65536
        status, body = client.call(HELLO, hello())
        assert status == INVALID
        assert client.call(STATUS)[0] == OK

        # Large frames come after HELLO only.
        client = daemon.client(greet=False)
        client.send(frame(HELLO, hello(), length=4097))
        assert client.reply()[2] == MALFORMED and closed(client)


def broken_framing_ends_the_connection():
    bad = [
        struct.pack("<I", 0), struct.pack("<I", 15), struct.pack("<I", MIB + 1),
        struct.pack("<I", 2**32 - 1), b"GET / HTTP/1.1\r\n\r\n",
        frame(STATUS, flags=4), frame(STATUS, flags=REPLY), frame(STATUS, status=1),
    ]
    with Daemon() as daemon:
        for data in bad:
            client = daemon.client()
            client.send(data.ljust(16, b"\0"))
            _, _, status, _, body = client.reply()
            assert status == MALFORMED and len(body) > 2, data
            assert closed(client)
        assert daemon.client().call(STATUS)[0] == OK

        # An answer that is on its way is given up with it.
        client = daemon.client(timeout=5)
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 32)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 4096))
        for i in range(16):
            client.must(MARK, mark(drive, [(i << 28 | n << 13, 1) for n in range(1 << 15)]))
        client.send(frame(MAP, text("d/a") + bytes(8)) + struct.pack("<IIQ", 0, 0, 0))
        assert closed(client)


def a_wrong_request_leaves_the_connection():
    with Daemon() as daemon:
        client = daemon.client()
        for operation in (0, 2, 15, 25, 31, 43, 53, 63, 68, 79, 84, 1000, 65535):
            status, body = client.call(operation, b"xyz")
            assert status == UNKNOWN_OPERATION and str(operation).encode() in body
        for operation in (list(range(16, 25)) + list(range(32, 43)) + list(range(48, 53)) +
                          list(range(80, 84)) + [TRANSACTION]):
            for payload in (b"x", b"\xff" * 40):
                if (operation, payload) == (DRIVE_LIST, b""):
                    continue
                status, _ = client.call(operation, payload)
                assert status == MALFORMED, (operation, status)
        # Trailing bytes are refused.
        assert client.call(STATUS, b"\0")[0] == MALFORMED
        assert client.call(DRIVE_SHOW, text("d") + b"\0")[0] == MALFORMED
        assert client.call(STATUS)[0] == OK


def every_error_has_its_status():
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 4096))
        table = [
            (DRIVE_ADD, drive_add("d", MIB), EXISTS),
            (DRIVE_ADD, drive_add("bad name", MIB), INVALID),
            (DRIVE_ADD, drive_add("e", 0), INVALID),
            (DRIVE_ADD, drive_add("e", 2**63), INVALID),
            (DRIVE_ADD, drive_add("e", 0, "relative"), INVALID),
            (DRIVE_ADD, drive_add("e", 0, "/dev/null"), INVALID),
            (DRIVE_ADD, drive_add("e", 0, "/nonexistent/file"), FAILED),
            (DRIVE_SHOW, text("nobody"), NOT_FOUND),
            (DRIVE_SHOW, text(b"\xff"), NOT_FOUND),
            (DRIVE_SHOW, text(b"d\0"), MALFORMED),
            (DRIVE_REMOVE, drive_change("d"), BUSY),
            (DRIVE_REMOVE, drive_change("d", flags=8), INVALID),
            (DRIVE_RENAME, drive_change("d", "d"), EXISTS),
            (DRIVE_RENAME, drive_change("d", "/x"), INVALID),
            (BITMAP_CREATE, bitmap_create("d/a"), EXISTS),
            (BITMAP_CREATE, bitmap_create("nobody/a"), NOT_FOUND),
            (BITMAP_CREATE, bitmap_create("a"), INVALID),
            (BITMAP_CREATE, bitmap_create("d/x@y"), INVALID),
            (BITMAP_CREATE, bitmap_create("d/b", 513), INVALID),
            (BITMAP_CREATE, bitmap_create("d/b", 256), INVALID),
            (BITMAP_CREATE, bitmap_create("d/b", flags=4), INVALID),
            (BITMAP_SHOW, text("d/nobody"), NOT_FOUND),
            (BITMAP_SHOW, text("d"), NOT_FOUND),
            (BITMAP_RENAME, change("d/a", "a/b"), INVALID),
            (BITMAP_SET, bitmap_range("d/a", 0, 0), INVALID),
            (BITMAP_SET, bitmap_range("d/a", MIB, 1), INVALID),
            (BITMAP_SET, bitmap_range("d/a", 1, 2**64 - 1), INVALID),
            (BITMAP_SET, bitmap_range("d/a", 0, 1, flags=4), INVALID),
            (BITMAP_CLEAR, bitmap_range("d/a", 0, 1, flags=4), INVALID),
            (BITMAP_MERGE, NONE + text("d/a") + struct.pack("<H", 0), INVALID),
            (BITMAP_MERGE, NONE + text("d/a") + struct.pack("<H", 1) + text("d/z"), NOT_FOUND),
            (MAP, text("d/a") + struct.pack("<Q", 1), INVALID),
            (MAP, text("d/a") + struct.pack("<Q", MIB + 4096), INVALID),
            (MARK, mark(drive, []), INVALID),
            (MARK, mark(drive + 99, [(0, 1)]), NOT_FOUND),
            (MARK, mark(drive, [(0, 1), (MIB, 1)]), INVALID),
            (MARK, mark(drive, [(0, 0)]), INVALID),
            (MARK, mark(drive, [(0, 1)] * 2, first=2**64 - 1), INVALID),
            (SETTLE, settle(drive, [(0, 1)]), INVALID),
            (SETTLE, settle(drive, [(1, 0)]), INVALID),
            (SETTLE, settle(drive, [(5, 2**64 - 1)]), INVALID),
            (ATTACH, attach("nobody", "w"), NOT_FOUND),
            (ATTACH, attach("d", ""), INVALID),
            (ATTACH, attach("d", "a b"), INVALID),
            (ATTACH, attach("d", "w" * 256), INVALID),
            (RESUME, struct.pack("<Q", drive), NOT_FOUND),
            (DETACH, struct.pack("<Q", drive), NOT_FOUND),
            (DRIVE_FENCE, drive_change("d", "nobody"), NOT_FOUND),
            (RELOAD, b"", OK),
        ]
        for operation, payload, expected in table:
            status, body = client.call(operation, payload)
            assert status == expected, (operation, payload, status, body)
            if expected != OK:
                length, = struct.unpack_from("<H", body)
                assert 0 < length == len(body) - 2
                body[2:].decode()
        assert client.map("d/a") == []


def bytes_may_come_in_any_pieces():
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1024 * MIB)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        for byte in frame(STATUS, cookie=9):
            client.send(bytes([byte]))
            time.sleep(0.001)
        assert client.reply()[3] == 9
        # A largest frame, in pieces, and others around it.
        pairs = [(i * 65536 % (1024 * MIB), 65536) for i in range((MIB - 36) // 16)]
        payload = mark(drive, pairs)
        stream = frame(STATUS, cookie=1) + frame(MARK, payload, cookie=2) + frame(STATUS, cookie=3)
        assert len(frame(MARK, payload)) > MIB - 32
        rng = random.Random(1)
        while stream:
            n = rng.randrange(1, 50000)
            client.send(stream[:n])
            stream = stream[n:]
        replies = [client.reply() for _ in range(3)]
        assert all(status == OK for _, _, status, _, _ in replies)
        assert sorted(cookie for _, _, _, cookie, _ in replies) == [1, 2, 3]
        assert client.map("d/a") == [(0, 1024 * MIB)]


def replies_match_cookies():
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1024 * MIB)))
        # Changes wait for the container, reads do not: they may overtake.
        data, kinds = b"", {}
        for i in range(300):
            kinds[i] = (BITMAP_CREATE, MARK, STATUS)[i % 3]
            payload = (bitmap_create("d/b%d" % i, 65536), mark(drive, [(i * 65536, 1)]), b"")[i % 3]
            data += frame(kinds[i], payload, cookie=i)
        client.send(data)
        seen = set()
        for _ in range(300):
            operation, flags, status, cookie, _ = client.reply()
            assert status == OK and flags == REPLY and kinds[cookie] == operation
            seen.add(cookie)
        assert len(seen) == 300
        # A bitmap has the marks that came after it, and no others.
        for i in (0, 150, 297):
            first = (i + 1) * 65536
            expected = [(n * 65536, 65536) for n in range(300) if n % 3 == 1 and n * 65536 >= first]
            assert client.map("d/b%d" % i) == expected


def a_repeat_is_not_done_twice():
    with Daemon() as daemon:
        client = daemon.client()
        ids = [os.urandom(16) for _ in range(4)]
        add = drive_add("d", MIB, request=ids[0])
        first = client.must(DRIVE_ADD, add)
        assert client.must(DRIVE_ADD, add) == first
        create = bitmap_create("d/a", 4096, request=ids[1])
        first = client.must(BITMAP_CREATE, create)
        assert client.must(BITMAP_CREATE, create) == first
        rename = change("d/a", "b", request=ids[2])
        client.must(BITMAP_RENAME, rename)
        client.must(BITMAP_RENAME, rename)
        clear = bitmap_range("d/b", 0, 0, flags=4, request=ids[3])
        client.must(BITMAP_CLEAR, clear)
        client.must(MARK, mark(drive_id(client.must(DRIVE_SHOW, text("d"))), [(0, 1)]))
        client.must(BITMAP_CLEAR, clear)
        assert client.map("d/b") == [(0, 4096)]
        # Another request under the same id is not taken for it.
        assert client.call(BITMAP_DELETE, change("d/b", request=ids[2]))[0] == INVALID
        # While a path is looked at, a repeat may come too.
        path = os.path.join(daemon.directory, "drive")
        with open(path, "wb") as file:
            file.truncate(MIB)
        add = drive_add("p", 0, path, request=os.urandom(16))
        for _ in range(10):
            client.request(DRIVE_ADD, add)
        replies = [client.reply() for _ in range(10)]
        assert {reply[2] for reply in replies} == {OK}, replies
        assert len({reply[4] for reply in replies}) == 1
        # Also across a restart.
        assert daemon.stop() == 0
        daemon.start()
        client = daemon.client()
        client.must(BITMAP_RENAME, rename)
        client.must(BITMAP_CLEAR, clear)
        assert client.map("d/b") == [(0, 4096)]


def writers_and_their_tokens():
    with Daemon() as daemon:
        one, two = daemon.client(), daemon.client()
        drive = drive_id(one.must(DRIVE_ADD, drive_add("d", MIB)))
        one.must(BITMAP_CREATE, bitmap_create("d/a", 4096))
        attachment = attach("d", "w")
        assert struct.unpack("<QQB", one.must(ATTACH, attachment)) == (drive, MIB, 0)
        assert one.call(ATTACH, attachment)[0] == BUSY
        assert two.call(ATTACH, attachment)[0] == BUSY
        one.must(MARK, mark(drive, [(0, 1), (8192, 1)], first=1))
        one.must(SETTLE, settle(drive, [(2, 1)]))
        assert one.call(MARK, mark(drive, [(0, 1)], first=2))[0] == INVALID
        assert one.call(DETACH, struct.pack("<Q", drive))[0] == BUSY
        two.must(BITMAP_CLEAR, bitmap_range("d/a", 0, 0, flags=4))
        assert two.map("d/a") == [(0, 4096)]

        # Who hung up has lost the token at once, even with bytes unread.
        one.send(frame(STATUS) * 100)
        one.close()
        assert struct.unpack("<QQB", two.must(ATTACH, attachment)) == (drive, MIB, 1)
        two.must(MARK, mark(drive, [(16384, 1)], first=1))
        two.must(BITMAP_CLEAR, bitmap_range("d/a", 0, 0, flags=4))
        assert two.map("d/a") == [(0, 4096), (16384, 4096)]
        two.must(RESUME, struct.pack("<Q", drive))
        two.must(BITMAP_CLEAR, bitmap_range("d/a", 0, 0, flags=4))
        assert two.map("d/a") == [(16384, 4096)]

        three = daemon.client()
        three.must(DRIVE_FENCE, drive_change("d", "w"))
        assert two.call(MARK, mark(drive, [(0, 1)], first=9))[0] == FENCED
        assert two.call(SETTLE, settle(drive, [(1, 1)]))[0] == FENCED
        three.must(ATTACH, attachment)
        # The fenced one may begin anew when the token is free.
        assert two.call(ATTACH, attachment)[0] == BUSY
        # Who holds it now may hang up; who held it once has nothing to do with that.
        three.send(frame(STATUS) * 100)
        three.close()
        four = daemon.client()
        assert struct.unpack("<QQB", four.must(ATTACH, attachment)) == (drive, MIB, 1)
        four.must(DETACH, struct.pack("<Q", drive))
        two.must(ATTACH, attachment)
        two.must(DETACH, struct.pack("<Q", drive))
        two.must(DRIVE_REMOVE, drive_change("d", flags=1))
        assert two.call(MARK, mark(drive, [(0, 1)]))[0] == NOT_FOUND


def a_connection_that_writes_to_many_drives():
    with Daemon() as daemon:
        one, two = daemon.client(), daemon.client()
        drives = {}
        for i in range(200):
            drives["d%d" % i] = drive_id(one.must(DRIVE_ADD, drive_add("d%d" % i, MIB)))
            one.must(BITMAP_CREATE, bitmap_create("d%d/a" % i, 4096))
        names = random.Random(1).sample(sorted(drives), len(drives))
        for name in names:
            one.must(ATTACH, attach(name, "w"))
        for name in reversed(names):
            one.must(MARK, mark(drives[name], [(0, 1)], first=1))
        kept, left = names[::2], names[1::2]
        for name in left:
            one.must(SETTLE, settle(drives[name], [(1, 1)]))
            one.must(DETACH, struct.pack("<Q", drives[name]))
            assert one.call(DETACH, struct.pack("<Q", drives[name]))[0] == NOT_FOUND
        for name in names:
            assert two.call(ATTACH, attach(name, "w"))[0] == (BUSY if name in kept else OK)
            two.must(BITMAP_CLEAR, bitmap_range(name + "/a", 0, 0, flags=4))
            # What is not settled stays.
            assert two.map(name + "/a") == ([(0, 4096)] if name in kept else []), name
        one.send(frame(STATUS) * 100)
        one.close()
        for name in kept:
            answer = struct.unpack("<QQB", two.must(ATTACH, attach(name, "w")))
            assert answer == (drives[name], MIB, 1), answer


def maps_are_snapshots():
    with Daemon() as daemon:
        client = daemon.client()
        size = 1 << 36
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", size)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        pairs = [(i * 131072, 65536) for i in range(size // 131072)]
        for i in range(0, len(pairs), 60000):
            client.must(MARK, mark(drive, pairs[i:i + 60000]))
        # Marks made while the map is on its way are not in it; the reader is slow.
        cookie = client.request(MAP, text("d/a") + struct.pack("<Q", 0))
        other = daemon.client()
        other.must(MARK, mark(drive, [(0, size)]))
        assert other.map("d/a") == [(0, size)]
        time.sleep(0.2)
        runs = client.map_replies(cookie)
        assert runs == pairs
        # It can begin where an earlier one ended.
        other.must(BITMAP_CLEAR, bitmap_range("d/a", 0, size - 65536))
        assert other.map("d/a", offset=size - 131072) == [(size - 65536, 65536)]
        assert other.map("d/a", offset=size) == []


def lists_are_whole():
    with Daemon() as daemon:
        client = daemon.client()
        names = set()
        for i in range(30):
            names.add("d%d" % i)
            client.request(DRIVE_ADD, drive_add("d%d" % i, MIB))
        for i in range(30):
            client.reply()
        for i in range(500):
            client.request(BITMAP_CREATE, bitmap_create("d%d/b%d" % (i % 30, i)))
        for i in range(500):
            assert client.reply()[2] == OK

        def listed(operation, payload):
            cookie = client.request(operation, payload)
            items = []
            while True:
                _, flags, status, answered, body = client.reply()
                assert status == OK and answered == cookie
                if not flags & MORE:
                    assert struct.unpack("<Q", body)[0] == len(items)
                    return items
                length, = struct.unpack_from("<H", body, 8)
                items.append(body[10:10 + length].decode())
        assert set(listed(DRIVE_LIST, b"")) == names
        assert len(set(listed(BITMAP_LIST, text("")))) == 500
        assert listed(BITMAP_LIST, text("d7")) == ["d7/b%d" % i for i in range(7, 500, 30)]
        assert client.call(BITMAP_LIST, text("nobody"))[0] == NOT_FOUND


run([hello_comes_first, broken_framing_ends_the_connection, a_wrong_request_leaves_the_connection,
     every_error_has_its_status, bytes_may_come_in_any_pieces, replies_match_cookies,
     a_repeat_is_not_done_twice, writers_and_their_tokens, a_connection_that_writes_to_many_drives,
     maps_are_snapshots, lists_are_whole])
