# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checkpoints, transactions and drives' paths, in conversations with the daemon."""

import array
import json
import os
import random
import struct
import subprocess
import threading
import time
import uuid

from hung import Hung
from wire import *

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
G = 64 * KIB


def granules(runs):
    return {i for offset, length in runs for i in range(offset // G, (offset + length + G - 1) // G)}


def touch(client, drive, *numbers):
    client.must(MARK, mark(drive, [(n * G, 1) for n in numbers]))


def add(client, name, size=256 * MIB, **kwargs):
    return drive_id(client.must(DRIVE_ADD, drive_add(name, size, **kwargs)))


def create(client, name, *drives, request=NONE):
    return checkpoint_created(client.must(CHECKPOINT_CREATE,
                                          checkpoint_create(name, drives, request)))


def since(client, drive, base, until=""):
    head, runs = client.since(drive, base, until)
    assert head["validity"] == EXACT, head
    return granules(runs)


def maps_between_checkpoints():
    with Daemon() as daemon:
        client = daemon.client()
        drive, other = add(client, "vg0/d"), add(client, "e")
        assert client.since("vg0/d", "a") == NOT_FOUND
        touch(client, drive, 1)
        made = create(client, "a", "vg0/d", "e")
        assert made["drives"] == 2 and abs(made["created_ns"] - time.time_ns()) < 60e9
        touch(client, drive, 2)
        touch(client, other, 7)
        second = create(client, "b", "vg0/d")
        assert second["sequence"] > made["sequence"] and second["uuid"] != made["uuid"]
        touch(client, drive, 3)
        create(client, "c", "vg0/d")
        touch(client, drive, 2, 4)
        assert since(client, "vg0/d", "a") == {2, 3, 4}
        assert since(client, "vg0/d", "b") == {2, 3, 4}
        assert since(client, "vg0/d", "c") == {2, 4}
        assert since(client, "vg0/d", "a", "b") == {2}
        assert since(client, "vg0/d", "a", "c") == {2, 3}
        assert since(client, "vg0/d", "b", "c") == {3}
        assert since(client, "e", "a") == {7}
        assert client.since("vg0/d", "b", "b") == INVALID
        assert client.since("vg0/d", "b", "a") == INVALID
        assert client.since("e", "b") == NOT_FOUND
        assert client.since("vg0/d", "a", "nope") == NOT_FOUND
        assert client.since("vg0/d", "a", offset=1) == INVALID

        head, _ = client.since("vg0/d", "a", "c")
        assert head["bitmap"] == "vg0/d" and head["base"] == "a" and head["target"] == "c"
        assert head["base_uuid"] == made["uuid"] and head["base_sequence"] == made["sequence"]
        _, runs = client.since("vg0/d", "a", offset=3 * G)
        assert granules(runs) == {3, 4}

        # By its UUID it is that one and no other of the name.
        named = "a@%s" % uuid.UUID(bytes=made["uuid"])
        assert since(client, "vg0/d", named) == {2, 3, 4}
        assert since(client, "vg0/d", named.upper().replace("A@", "a@")) == {2, 3, 4}
        for wrong in ["a@", "a@1", "a@%s" % uuid.UUID(bytes=second["uuid"]), named + "0", "@a"]:
            assert client.since("vg0/d", wrong) == NOT_FOUND, wrong

        names = [c["name"] for c in client.checkpoints("vg0/d")]
        assert names == ["a", "b", "c"], names
        assert [c["recording"] for c in client.checkpoints("vg0/d")] == [0, 0, 1]
        assert len(client.checkpoints()) == 4
        assert client.items(BITMAP_LIST, text(""), bitmap_info) == []
        assert drive_info(client.must(DRIVE_SHOW, text("vg0/d")))["checkpoints"] == 3

        # Deleting changes no map between those that remain; the newest one's elder records again.
        client.must(CHECKPOINT_DELETE, checkpoint_delete("vg0/d", "b"))
        assert since(client, "vg0/d", "a", "c") == {2, 3}
        assert since(client, "vg0/d", "c") == {2, 4}
        client.must(CHECKPOINT_DELETE, checkpoint_delete("vg0/d", "c"))
        touch(client, drive, 9)
        assert since(client, "vg0/d", "a") == {2, 3, 4, 9}
        create(client, "b", "vg0/d")
        assert client.since("vg0/d", "b@%s" % uuid.UUID(bytes=second["uuid"])) == NOT_FOUND
        client.must(CHECKPOINT_DELETE, checkpoint_delete("vg0/d", named))
        client.must(CHECKPOINT_DELETE, checkpoint_delete("vg0/d", "b"))
        assert client.call(CHECKPOINT_DELETE, checkpoint_delete("vg0/d", "b"))[0] == NOT_FOUND
        assert client.checkpoints("vg0/d") == []
        assert client.call(DRIVE_REMOVE, drive_change("e"))[0] == BUSY
        client.must(DRIVE_REMOVE, drive_change("e", flags=1))


def all_drives_or_none():
    with Daemon() as daemon:
        client = daemon.client()
        for name in "abc":
            add(client, name)
        create(client, "x", "c")
        for drives in [["a", "b", "c"], ["a", "nope"], ["a", "a"], []]:
            status, _ = client.call(CHECKPOINT_CREATE, checkpoint_create("x", drives))
            assert status in (EXISTS, NOT_FOUND, INVALID), (drives, status)
        assert client.call(CHECKPOINT_CREATE, checkpoint_create("a/b", ["a"]))[0] == INVALID
        assert client.call(CHECKPOINT_CREATE, checkpoint_create("a@b", ["a"]))[0] == INVALID
        assert [c["drive"] for c in client.checkpoints()] == ["c"]

        # The same request again is the same checkpoint.
        one = create(client, "y", "a", "b", request=b"r" * 16)
        assert create(client, "y", "a", "b", request=b"r" * 16) == one
        client.must(CHECKPOINT_DELETE, checkpoint_delete("b", "y"))
        status, _ = client.call(CHECKPOINT_CREATE,
                                checkpoint_create("y", ["a", "b"], b"r" * 16))
        assert status == NOT_FOUND


def restarts_and_eviction():
    """Sealed bits leave memory, and maps, deletes and resizes read them again."""
    with Daemon("limits: {sealed_memory: 0}\nflush: {interval: 100ms}\n") as daemon:
        client = daemon.client()
        drive = add(client, "d", GIB)
        generator = random.Random(5)
        marks = []
        for i in range(12):
            create(client, "c%d" % i, "d")
            marks.append(set(generator.sample(range(GIB // G), 40)))
            touch(client, drive, *marks[-1])
            client.must(FLUSH)
        memory = Fields(client.must(STATUS)).take(
            "server:t container:u instance:u path:t uptime:Q sequence:Q applied:Q drives:I "
            "bitmaps:I unknown:I connections:I marks:Q memory:Q")["memory"]
        assert memory < 64 * KIB, memory

        def check(present):
            names = sorted(present)
            for i in names:
                expected = set().union(*(marks[j] for j in range(i, 12)))
                assert since(client, "d", "c%d" % i) == expected, i
                for j in names:
                    if j > i:
                        expected = set().union(*(marks[k] for k in range(i, j)))
                        assert since(client, "d", "c%d" % i, "c%d" % j) == expected, (i, j)
            counted = {c["name"]: c["dirty_count"] for c in client.checkpoints("d")}
            assert set(counted) == {"c%d" % i for i in names}

        present = set(range(12))
        check(present)
        for turn, victim in enumerate([5, 0, 11, 6, 3]):
            client.must(CHECKPOINT_DELETE, checkpoint_delete("d", "c%d" % victim))
            present.discard(victim)
            check(present)
            if turn % 2:
                daemon.stop(9 if turn == 3 else 15)
                daemon.start()
                client = daemon.client()
                check(present)
        # Grown: the new part is dirty in sealed ones as well, and stays so.
        client.must(FLUSH)
        client.must(DRIVE_RESIZE, NONE + text("d") + struct.pack("<Q", GIB // 2))
        client.must(FLUSH)
        client.must(DRIVE_RESIZE, NONE + text("d") + struct.pack("<Q", GIB))
        for _ in range(2):
            upper = set(range(GIB // 2 // G, GIB // G))
            assert upper <= since(client, "d", "c1", "c2")
            daemon.stop(9)
            daemon.start()
            client = daemon.client()
        client.must(DRIVE_RENAME, drive_change("d", "renamed"))
        client.must(FLUSH)
        assert upper <= since(client, "renamed", "c1", "c2")


def requests_in_order():
    """What follows a request that has to wait sees its effect."""
    with Daemon("limits: {sealed_memory: 0}\n") as daemon:
        client = daemon.client()
        drive = add(client, "d")
        for name in ["a", "b", "c"]:
            create(client, name, "d")
            touch(client, drive, ord(name))
        client.must(FLUSH)
        client.request(CHECKPOINT_DELETE, checkpoint_delete("d", "b"))
        client.request(CHECKPOINT_CREATE, checkpoint_create("b", ["d"]))
        client.request(CHECKPOINT_DELETE, checkpoint_delete("d", "a"))
        client.request(DRIVE_RENAME, drive_change("d", "e"))
        client.request(CHECKPOINT_DELETE, checkpoint_delete("e", "b"))
        answers = sorted(client.reply()[2:] for _ in range(5))
        assert [a[0] for a in answers] == [OK] * 5, answers
        assert [c["name"] for c in client.checkpoints()] == ["c"]
        # A client that leaves in the middle takes nothing with it.
        for _ in range(20):
            create(client, "x", "e")
            create(client, "y", "e")
            client.must(FLUSH)
            leaver = daemon.client()
            leaver.request(CHECKPOINT_DELETE, checkpoint_delete("e", "y"))
            leaver.request(CHECKPOINT_MAP, checkpoint_map("e", "c"))
            leaver.close()
            for name in "xy":
                client.call(CHECKPOINT_DELETE, checkpoint_delete("e", name))


def transactions():
    with Daemon() as daemon:
        client = daemon.client()
        drive = add(client, "d")
        client.must(BITMAP_CREATE, bitmap_create("d/a"))
        touch(client, drive, 1, 2)

        def merged():
            return [(BITMAP_CREATE, bitmap_create("d/t", flags=2)),
                    (BITMAP_MERGE, NONE + text("d/t") + struct.pack("<H", 1) + text("d/a")),
                    (BITMAP_CLEAR, bitmap_range("d/a", 0, 0, 4)),
                    (BITMAP_RENAME, change("d/t", "u")),
                    (CHECKPOINT_CREATE, checkpoint_create("c", ["d"]))]

        refused = [
            (BITMAP_DELETE, change("d/nope"), NOT_FOUND),
            (BITMAP_CREATE, bitmap_create("d/a"), EXISTS),
            (DRIVE_REMOVE, drive_change("d", flags=1), INVALID),
            (MARK, mark(drive, [(0, 1)]), INVALID),
            (TRANSACTION, transaction([]), INVALID),
            (CHECKPOINT_CREATE, checkpoint_create("e", ["d"]), INVALID),
            (999, b"", UNKNOWN_OPERATION),
            (BITMAP_DELETE, b"", MALFORMED),
        ]
        for operation, payload, expected in refused:
            status, body = client.call(TRANSACTION, transaction(merged() + [(operation, payload)]))
            assert status == expected and b"operation 5" in body, (operation, status, body)
            assert granules(client.map("d/a")) == {1, 2}
            assert len(client.items(BITMAP_LIST, text(""), bitmap_info)) == 1
            assert client.checkpoints() == []
        for blob in [b"", b"\0", struct.pack("<HI", BITMAP_DELETE, 2**32 - 1)]:
            status, _ = client.call(TRANSACTION, NONE + struct.pack("<I", len(blob)) + blob)
            assert status in (INVALID, MALFORMED)
        assert client.call(TRANSACTION, NONE + struct.pack("<I", 9))[0] == MALFORMED

        body = client.must(TRANSACTION, transaction(merged(), b"q" * 16))
        assert client.must(TRANSACTION, transaction(merged(), b"q" * 16)) == body
        sequence, = struct.unpack("<Q", body)
        assert client.checkpoints()[0]["sequence"] == sequence
        for _ in range(2):
            assert client.map("d/a") == [] and granules(client.map("d/u")) == {1, 2}
            daemon.stop(9)
            daemon.start()
            client = daemon.client()


def evidence():
    with Daemon() as daemon:
        client = daemon.client()
        path = os.path.join(daemon.directory, "drive")
        with open(path, "wb") as file:
            file.truncate(64 * MIB)
        drive = add(client, "d", 0, path=path)
        create(client, "a", "d")
        info = drive_info(client.must(DRIVE_SHOW, text("d")))
        assert "file" in info["identity"] and info["untracked"] == "", info

        def write(offset):
            time.sleep(0.02)
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(b"x")
            time.sleep(0.02)

        # Tracked: evidence is void while somebody is attached, and kept when he goes.
        client.must(ATTACH, attach("d", "w"))
        touch(client, drive, 3)
        write(3 * G)
        client.must(DETACH, struct.pack("<Q", drive))
        os.chown(path, 1, 1)
        assert since(client, "d", "a") == {3}
        client.must(ATTACH, attach("d", "w"))
        client.must(DETACH, struct.pack("<Q", drive))
        head, _ = client.since("d", "a")
        assert head["validity"] == EXACT and head["untracked"] == ""

        # Over a restart; then a write that nobody marked, which a map finds as well.
        daemon.stop()
        daemon.start()
        client = daemon.client()
        assert since(client, "d", "a") == {3}
        write(5 * G)
        head, runs = client.since("d", "a")
        assert head["validity"] == UNKNOWN and "modification time" in head["reason"], head
        assert runs == [(0, 64 * MIB)]
        client.must(ATTACH, attach("d", "w"))
        assert client.since("d", "a")[0]["validity"] == UNKNOWN
        create(client, "b", "d")
        assert since(client, "d", "b") == set()
        assert client.since("d", "a")[0]["validity"] == UNKNOWN

        # Lost without a detach: nothing is known of the time until it comes back.
        client.close()
        client = daemon.client()
        time.sleep(0.1)
        client.must(ATTACH, attach("d", "w"))
        client.must(RESUME, struct.pack("<Q", drive))
        head, _ = client.since("d", "b")
        assert head["validity"] == EXACT and "lost" in head["untracked"], head
        client.must(DETACH, struct.pack("<Q", drive))

        # Another drive under the name.
        os.rename(path, path + ".old")
        with open(path, "wb") as file:
            file.truncate(32 * MIB)
        status, body = client.call(ATTACH, attach("d", "w"))
        assert status == OTHER_DRIVE and b"adopt" in body, (status, body)
        client.must(BITMAP_CREATE, bitmap_create("d/u"))
        client.must(DRIVE_ADOPT, drive_change("d"))
        assert client.since("d", "b") == NOT_FOUND
        info = drive_info(client.must(DRIVE_SHOW, text("d")))
        assert info["size"] == 32 * MIB and info["checkpoints"] == 0
        assert bitmap_info(client.must(BITMAP_SHOW, text("d/u")))["validity"] == UNKNOWN
        client.must(ATTACH, attach("d", "w"))
        assert client.call(DRIVE_ADOPT, drive_change("d"))[0] == BUSY
        client.must(DETACH, struct.pack("<Q", drive))

        # A path that is gone is no reason to refuse, and no proof of anything.
        os.unlink(path)
        create(client, "c", "d")
        client.must(ATTACH, attach("d", "w"))
        head, _ = client.since("d", "c")
        assert head["validity"] == EXACT and "looked at" in head["untracked"], head

        drive = add(client, "nopath", MIB)
        create(client, "c", "nopath")
        assert "no path" in client.since("nopath", "c")[0]["untracked"]


def nothing_is_frozen_unseen():
    """A write past the daemon is found before what has missed it stops recording."""
    with Daemon() as daemon:
        client = daemon.client()
        path = os.path.join(daemon.directory, "drive")
        with open(path, "wb") as file:
            file.truncate(MIB)
        drive = add(client, "d", 0, path=path)
        create(client, "c1", "d")
        for name in "abc":
            client.must(BITMAP_CREATE, bitmap_create("d/" + name))

        def validity(name):
            return bitmap_info(client.must(BITMAP_SHOW, text("d/" + name)))["validity"]

        def write():
            time.sleep(0.02)
            with open(path, "r+b") as file:
                file.write(b"x")

        write()
        client.must(BITMAP_DISABLE, change("d/a"))
        assert validity("a") == validity("b") == UNKNOWN
        # What begins after the verdict is not blamed for what was before it.
        create(client, "c2", "d")
        assert client.since("d", "c1", "c2")[0]["validity"] == UNKNOWN
        assert since(client, "d", "c2") == set()
        client.must(BITMAP_CLEAR, bitmap_range("d/b", 0, 0, 4))
        client.must(ATTACH, attach("d", "w"))
        assert since(client, "d", "c2") == set() and validity("b") == EXACT
        client.must(DETACH, struct.pack("<Q", drive))

        write()
        create(client, "c3", "d")
        assert client.since("d", "c2", "c3")[0]["validity"] == UNKNOWN
        assert since(client, "d", "c3") == set()
        write()
        client.must(TRANSACTION, transaction([(CHECKPOINT_CREATE, checkpoint_create("c4", ["d"]))]))
        assert client.since("d", "c3", "c4")[0]["validity"] == UNKNOWN
        client.must(BITMAP_CLEAR, bitmap_range("d/b", 0, 0, 4))
        write()
        touch(client, drive, 1)
        assert validity("b") == UNKNOWN
        assert client.since("d", "c4")[0]["validity"] == UNKNOWN
        # A mark is somebody's writing: nothing is left to compare with.
        create(client, "c5", "d")
        touch(client, drive, 2)
        head, _ = client.since("d", "c5")
        assert head["validity"] == EXACT and "evidence" in head["untracked"], head

        # Many drives in one checkpoint are each looked at.
        names = []
        for i in range(40):
            with open("%s%d" % (path, i), "wb") as file:
                file.truncate(MIB)
            names.append("m%d" % i)
            add(client, names[-1], 0, path=file.name)
        create(client, "one", *names)
        time.sleep(0.02)
        with open(path + "7", "r+b") as file:
            file.write(b"x")
        create(client, "two", *names)
        for i, name in enumerate(names):
            expected = UNKNOWN if i == 7 else EXACT
            assert client.since(name, "one", "two")[0]["validity"] == expected, name

        # The peer may hang up as soon as it has asked: it has not been lost.
        client.must(ATTACH, attach("m0", "w"))
        ident = drive_info(client.must(DRIVE_SHOW, text("m0")))["id"]
        client.request(DETACH, struct.pack("<Q", ident))
        client.close()
        time.sleep(0.3)
        client = daemon.client()
        info = drive_info(client.must(DRIVE_SHOW, text("m0")))
        assert info["lost_writers"] == info["writers"] == 0, info


def paths_that_hang():
    if not Hung.possible():
        return
    with Daemon() as daemon:
        client, others = daemon.client(), daemon.client()
        for name in ["hung", "well"]:
            directory = os.path.join(daemon.directory, name)
            os.mkdir(directory)
            with open(os.path.join(directory, "drive"), "wb") as file:
                file.truncate(MIB)
            add(client, name, 0, path=file.name)
            create(client, "a", name)
        with Hung(os.path.join(daemon.directory, "hung")):
            started = time.monotonic()
            client.request(ATTACH, attach("hung", "w"))
            others.must(ATTACH, attach("well", "w"))
            assert "untracked" in drive_info(others.must(DRIVE_SHOW, text("hung")))
            assert client.reply()[2] == OK
            waited = time.monotonic() - started
            assert waited > 4, waited
            head, _ = client.since("hung", "a")
            assert head["validity"] == EXACT and "looked at" in head["untracked"], head
            # It is not waited for again.
            for i in range(20):
                others.must(ATTACH, attach("hung", "v")) if i == 0 else None
                assert client.call(ATTACH, attach("hung", "v"))[0] == BUSY
            assert time.monotonic() - started < waited + 60


def unproven_is_unknown():
    with Daemon("identity: {on_unproven: unknown}\n") as daemon:
        client = daemon.client()
        path = os.path.join(daemon.directory, "drive")
        with open(path, "wb") as file:
            file.truncate(MIB)
        add(client, "d", 0, path=path)
        create(client, "a", "d")
        client.must(ATTACH, attach("d", "w"))
        assert client.since("d", "a")[0]["validity"] == EXACT
        client.close()
        client = daemon.client()
        time.sleep(0.1)
        client.must(ATTACH, attach("d", "w"))
        head, _ = client.since("d", "a")
        assert head["validity"] == UNKNOWN and "ruled out" in head["reason"], head


def writers_that_go_on():
    with Daemon() as daemon:
        client = daemon.client()
        drive = add(client, "d", MIB)
        create(client, "a", "d")
        client.must(BITMAP_CREATE, bitmap_create("d/u"))
        writer = daemon.client()
        writer.must(ATTACH, attach("d", "w", CONTINUES))
        assert client.since("d", "a")[0]["validity"] == EXACT
        writer.close()
        time.sleep(0.1)
        head, _ = client.since("d", "a")
        assert head["validity"] == UNKNOWN and "goes on" in head["reason"], head
        # Not over: what begins now is unknown as well.
        create(client, "b", "d")
        assert client.since("d", "b")[0]["validity"] == UNKNOWN
        client.must(BITMAP_CLEAR, bitmap_range("d/u", 0, 0, 4))
        assert bitmap_info(client.must(BITMAP_SHOW, text("d/u")))["validity"] == UNKNOWN
        writer = daemon.client()
        writer.must(ATTACH, attach("d", "w", CONTINUES))
        writer.must(RESUME, struct.pack("<Q", drive))
        create(client, "c", "d")
        assert client.since("d", "c")[0]["validity"] == EXACT
        # The daemon's own end loses it, too.
        daemon.stop(9)
        daemon.start()
        client = daemon.client()
        assert client.since("d", "c")[0]["validity"] == UNKNOWN
        client.must(DRIVE_FENCE, drive_change("d", "w"))
        create(client, "e", "d")
        assert client.since("d", "e")[0]["validity"] == EXACT


def bitmapctl(daemon, *words):
    result = subprocess.run([os.environ["BITMAPCTL"], "-s", daemon.socket, *words],
                            capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def verified_while_it_is_written():
    with Daemon("defaults: {granularity: 512}\n") as daemon:
        client = daemon.client()
        path, copy = (os.path.join(daemon.directory, name) for name in ("drive", "copy"))
        size = 80 * MIB
        for name in (path, copy):
            with open(name, "wb") as file:
                file.truncate(size)
        drive = add(client, "d", 0, path=path)
        client.must(ATTACH, attach("d", "w"))
        create(client, "a", "d")
        stop, generator = threading.Event(), random.Random(3)

        def write():
            with open(path, "r+b") as file:
                while not stop.is_set():
                    offset = generator.randrange(size)
                    client.must(MARK, mark(drive, [(offset, 1)]))
                    file.seek(offset)
                    file.write(b"x")
                    file.flush()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(4):
                code, output, error = bitmapctl(daemon, "verify", "d", "--since", "a", "--against",
                                                copy)
                assert code == 0, (code, output, error)
        finally:
            stop.set()
            thread.join()
        # More than fit beside one map, none of them marked; then some of them are.
        with open(path, "r+b") as file:
            for i in range(0, size, 1024):
                file.seek(i)
                file.write(b"y")
        create(client, "b", "d")
        code, output, _ = bitmapctl(daemon, "-o", "json", "verify", "d", "--since", "b",
                                    "--against", copy)
        found = json.loads(output)
        assert code == 8 and found["missed_count"] >= size // 1024, (code, found["missed_count"])
        assert len(found["missed"]) > 65536
        client.must(MARK, mark(drive, [(0, size - 1024)]))
        code, output, _ = bitmapctl(daemon, "-o", "json", "verify", "d", "--since", "b",
                                    "--against", copy)
        found = json.loads(output)
        assert code == 8 and found["missed"] == [{"offset": size - 1024, "length": 512}], found


def retention():
    with Daemon("retention: {count: 1}\n") as daemon:
        client = daemon.client()
        add(client, "d")
        for i in range(3):
            create(client, "c%d" % i, "d")
        assert since(client, "d", "c1") == set()
        assert [c["name"] for c in client.checkpoints()] == ["c1", "c2"]
    with Daemon("retention: {count: 3}\n") as daemon:
        client = daemon.client()
        drive = add(client, "d")
        for i in range(6):
            create(client, "c%d" % i, "d")
            touch(client, drive, i)
        assert [c["name"] for c in client.checkpoints()] == ["c3", "c4", "c5"]
        assert since(client, "d", "c3") == {3, 4, 5}
        assert daemon.messages().count("was pruned (retention.count)") == 3
    with Daemon() as daemon:
        client = daemon.client()
        add(client, "d", MIB)
        for i in range(256):
            create(client, "c%d" % i, "d")
        assert client.call(CHECKPOINT_CREATE, checkpoint_create("more", ["d"]))[0] == LIMIT
        assert client.since("d", "c0")[0]["validity"] == EXACT


def maps_while_marks_go_on():
    """Alternating granules of a large drive, read by several at once, one of them bitmapctl."""
    runs = int(os.environ.get("BITMAPD_TEST_RUNS", 1 << 21))
    with Daemon() as daemon:
        client = daemon.client()
        drive = add(client, "d", 4 * runs * G)
        create(client, "a", "d")
        for first in range(0, runs, 32768):
            pairs = array.array("Q", bytes(2 * 8 * 32768))
            pairs[0::2] = array.array("Q", range((2 * first + 1) * G, 2 * (first + 32768) * G, 2 * G))
            pairs[1::2] = array.array("Q", [1]) * 32768
            client.must(MARK, struct.pack("<QQI", drive, 0, 32768) + pairs.tobytes())
        create(client, "b", "d")
        before = daemon.rss()
        readers = [daemon.client() for _ in range(2)]
        cookies = [reader.request(CHECKPOINT_MAP, checkpoint_map("d", "a")) for reader in readers]
        program = spawn([os.environ["BITMAPCTL"], "-s", daemon.socket, "-o", "ndjson", "map", "d",
                         "--since", "a"], stdout=subprocess.PIPE)
        tail, most = b"", before
        while data := program.stdout.read(1 << 20):
            tail = (tail + data)[-4096:]
            touch(client, drive, 2 * runs + 5)
            most = max(most, daemon.rss())
        _, status, usage = os.wait4(program.pid, 0)
        end = json.loads(tail.splitlines()[-1])
        assert status == 0 and end["complete"] and end["tuples"] >= runs, (status, end)
        # A child begins with what its parent had.
        assert usage.ru_maxrss < 64 * KIB, usage.ru_maxrss
        for reader, cookie in zip(readers, cookies):
            count = 0
            while True:
                _, flags, status, answered, body = reader.reply()
                assert status == OK and answered == cookie
                if not flags & MORE:
                    assert struct.unpack_from("<Q", body)[0] == end["tuples"]
                    break
                most = max(most, daemon.rss())
                count += 1
        # Two bitmaps' worth for each map, and buffers.
        assert most - before < 8 * (4 * runs // 8) + 32 * MIB, most - before


def cold_history(daemon, size=256 * GIB, count=24):
    """A drive whose checkpoints but the last are in the container only, and what is marked."""
    client = daemon.client()
    drive = add(client, "d", size)
    generator = random.Random(7)
    marked = set()
    for i in range(count):
        create(client, "c%d" % i, "d")
        numbers = generator.sample(range(size // G), 400)
        marked.update(numbers)
        touch(client, drive, *numbers)
        client.must(FLUSH)
    return client, drive, marked


def a_limit_on_maps():
    """Maps that are being made count as those that are sent."""
    with Daemon("limits: {sealed_memory: 0, maps_per_connection: 3}\n") as daemon:
        client, _, marked = cold_history(daemon)
        for _ in range(3):
            cookies = [client.request(CHECKPOINT_MAP, checkpoint_map("d", "c0"))
                       for _ in range(5)]
            refused = 0
            left = set(cookies)
            while left:
                _, flags, status, cookie, body = client.reply()
                assert status in (OK, LIMIT), (status, body)
                if status == LIMIT:
                    assert cookie in cookies[3:] and b"maps_per_connection: 3" in body
                    refused += 1
                if not flags & MORE:
                    left.remove(cookie)
            assert refused == 2, refused
        assert since(client, "d", "c0") == marked
        # It is told before anything is made of it; and what is wrong is still told as such.
        assert client.since("d", "c0", offset=1) == INVALID
        assert client.since("d", "c1", "c0") == INVALID
        assert since(client, "d", "c0") == marked


def clients_that_ask_and_leave():
    """Maps that nobody waits for cost nothing, and hold up nobody."""
    with Daemon("limits: {sealed_memory: 0}\n") as daemon:
        client, drive, marked = cold_history(daemon)
        memory, descriptors = [], daemon.descriptors()
        for turn in range(6):
            for _ in range(50):
                leaver = daemon.client()
                leaver.send(b"".join(frame(CHECKPOINT_MAP, checkpoint_map("d", "c0"), i)
                                     for i in range(1000)))
                leaver.close()
                # Framing that is broken ends a connection as well.
                leaver = daemon.client()
                leaver.send(frame(CHECKPOINT_MAP, checkpoint_map("d", "c0"), 1) + b"?" * 64)
                leaver.close()
            touch(client, drive, turn)
            marked.add(turn)
            client.must(FLUSH)
            memory.append(daemon.rss())
        assert since(client, "d", "c0") == marked
        for _ in range(200):
            if daemon.descriptors() <= descriptors + 3:
                break
            time.sleep(0.02)
        assert daemon.descriptors() <= descriptors + 3, daemon.descriptors()
        assert memory[-1] - memory[1] < 16 * MIB, memory


def flushes_while_maps_are_made():
    with Daemon("limits: {sealed_memory: 0}\n") as daemon:
        client, drive, marked = cold_history(daemon)
        readers = [daemon.client() for _ in range(12)]
        for reader in readers:
            for _ in range(8):
                reader.request(CHECKPOINT_MAP, checkpoint_map("d", "c0"))
        done = threading.Event()
        finished = []

        def read(reader):
            ends = 0
            while ends < 8:
                _, flags, status, _, body = reader.reply()
                assert status == OK, body
                ends += not flags & MORE
            finished.append(reader)
            if len(finished) == len(readers):
                done.set()

        threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
        for thread in threads:
            thread.start()
        flushes = 0
        while not done.is_set() and flushes < 1000:
            touch(client, drive, flushes)
            marked.add(flushes)
            client.must(FLUSH)
            flushes += 1
        for thread in threads:
            thread.join()
        assert len(finished) == len(readers)
        # Each waits for one part at most; there are some two thousand.
        assert flushes > 20, flushes
        assert since(client, "d", "c0") == marked


def a_stop_while_maps_are_made():
    with Daemon("limits: {sealed_memory: 0}\n") as daemon:
        _, _, marked = cold_history(daemon)
        for turn in range(4):
            client = daemon.client()
            readers = [daemon.client() for _ in range(64)]
            for reader in readers:
                reader.send(b"".join(frame(CHECKPOINT_MAP, checkpoint_map("d", "c0"), i + 1)
                                     for i in range(8)))
            client.must(STATUS)
            before = len(daemon.messages())
            assert daemon.stop() == 0
            assert "stopped cleanly" in daemon.messages()[before:], daemon.messages()
            for reader in readers:
                reader.close()
            daemon.start()
            client = daemon.client()
            assert b"clean container" in client.must(STATUS)
            assert since(client, "d", "c0") == marked


run([maps_between_checkpoints, all_drives_or_none, restarts_and_eviction, requests_in_order,
     transactions, evidence, nothing_is_frozen_unseen, paths_that_hang, unproven_is_unknown,
     writers_that_go_on, verified_while_it_is_written, retention, maps_while_marks_go_on,
     a_limit_on_maps, clients_that_ask_and_leave, flushes_while_maps_are_made,
     a_stop_while_maps_are_made])
