# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write-backs, loads, and replays.

`writeback/N/time`: a flush after N chunks of one bitmap of 2^28 bits have
changed, beside the same number of 64 KiB clusters written at random places of
a file that is there already, and one fdatasync(2).  `writeback/N/bytes`: what
the daemon writes meanwhile, beside those clusters and what a flush writes that
has no changed chunk.

`load`, `store`: a bitmap of 2^28 bits of which every second one is dirty.
QEMU's storage daemon opens and closes an image with one such bitmap; the time
is that of the QMP command, less that of an image without bitmaps.  Our load is
a start of the daemon from fork(2) to READY=1, less that of a daemon which has
the drive but nothing dirty; our store is a flush, to the end of its answer.
`start/dense`: the same without anything taken off, beside QEMU's command.

`replay`: 1 M marks, one in each frame, are in the journal alone when the daemon
is killed.  The time is what its start reports for the replay, beside what redis
reports for loading an AOF of 1 M SETBITs.
"""

import os
import re
import shutil

import peers
from harness import accepts, KIB, MIB, TIB, timed, wait_until

MARKS = 1000000
GRANULE = 64 * KIB
CHUNKS = 512  # of 2^28 bits
CHUNK_BYTES = 16 * TIB // CHUNKS  # of the drive
ONLY_ASKED = """flush:
  interval: 24h
  dirty_limit: 4G
"""
LARGE_JOURNAL = "  segment_size: 128M\n"
# A million marks are not half of it, so that no write-back begins meanwhile.
ROOM_FOR_MARKS = "  segment_size: 32M\n"


class Big:
    """A daemon with one bitmap of 2^28 bits, every second one of them dirty; made once."""

    def __init__(self, bench):
        self.daemon = bench.daemon("big", config=ONLY_ASKED)
        self.drive = self.daemon.probe(
            "drives", "big", 1, 16 * TIB, GRANULE, "process-crash", "b")["first"]
        self.daemon.probe("stripes", self.drive, 1, 0, 2 * GRANULE, GRANULE, 1 << 27)
        self.daemon.probe("flush")
        self.changes = 0

    def change(self, chunks):
        """One bit more in each of so many chunks."""
        self.changes += 1
        self.daemon.probe(
            "stripes", self.drive, 1, (2 * self.changes + 1) * GRANULE,
            CHUNKS // chunks * CHUNK_BYTES, GRANULE, chunks)

    @staticmethod
    def of(bench):
        if not hasattr(bench, "big"):
            bench.big = Big(bench)
        return bench.big


def dense_image(bench):
    """A qcow2 with one such bitmap, and one without any; made once."""
    path, bare = bench.path("dense.qcow2"), bench.path("bare.qcow2")
    if not os.path.exists(path):
        peers.make_image(path, 16 * TIB, {"b": b"\x55" * (32 * MIB)})
        peers.make_image(bare, 16 * TIB, {})
    return path, bare


def load_rows(bench):
    big = Big.of(bench)
    storage = peers.StorageDaemon(bench, "qsd-load")
    dense, bare = dense_image(bench)
    empty = bench.daemon("empty", config=ONLY_ASKED)
    empty.add_drive("empty")
    empty.stop()
    loads, stores, wholes = ([], []), ([], []), ([], [])

    def open_and_close(path):
        return (1000 * timed(storage.open_image, "image", path),
                1000 * timed(storage.close_image, "image"))

    big.daemon.stop()
    open_and_close(dense)
    for _ in range(2 * bench.repetitions):
        opened, closed = open_and_close(dense)
        bare_opened, bare_closed = open_and_close(bare)
        loads[1].append(opened - bare_opened)
        stores[1].append(closed - bare_closed)
        wholes[1].append(opened)
        ready = big.daemon.timed_start()["ready_ms"]
        loads[0].append(ready - empty.timed_start()["ready_ms"])
        wholes[0].append(ready)
    big.daemon.start()
    bench.add("load/dense", "ms", *loads, "qemu-storage-daemon", 5, smaller=True)
    bench.add("start/dense", "ms", *wholes, "qemu-storage-daemon", smaller=True)

    for name, chunks, aim in (("all", CHUNKS, 2.5), ("one-chunk", 1, 60)):
        times = []
        for _ in stores[1]:
            big.change(chunks)
            times.append(big.daemon.probe("flush")["ms"])
        bench.add(f"store/{name}", "ms", times, stores[1], "qemu-storage-daemon", aim,
                  smaller=True)


def writeback_rows(bench):
    big = Big.of(bench)
    daemon = big.daemon

    def flush():
        """Milliseconds and bytes."""
        before = daemon.written_bytes()
        time = daemon.probe("flush")["ms"]
        return time, daemon.written_bytes() - before

    def metadata():
        daemon.ctl("drive", "set", "big0", "--granularity", "128K")
        daemon.ctl("drive", "set", "big0", "--granularity", "64K")
        return flush()[1]

    for chunks in (1, 8, 64, CHUNKS):
        times, sizes = ([], []), ([], [])
        for _ in range(bench.repetitions):
            big.change(chunks)
            time, size = flush()
            times[0].append(time)
            sizes[0].append(size)
            times[1].append(bench.probe("sync", bench.path("clusters"), 256 * MIB, GRANULE,
                                        chunks, 1)["ms"])
            sizes[1].append(chunks * GRANULE + metadata())
        bench.add(f"writeback/{chunks}/time", "ms", *times, "pwrite, fdatasync", smaller=True)
        bench.add(f"writeback/{chunks}/bytes", "bytes", *sizes, "clusters, metadata", 1 / 1.1,
                  smaller=True)


def redis_loads(bench, times):
    """Milliseconds that as many starts of redis take to load 1 M SETBITs."""
    directory = bench.path("redis-aof")
    os.makedirs(directory)
    socket = os.path.join(directory, "redis.sock")
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", directory,
               "--save", "", "--appendonly", "yes", "--appendfsync", "no",
               "--auto-aof-rewrite-percentage", "0"]
    found = []
    for i in range(times + 1):
        process = bench.start("redis-aof", command, lambda: accepts(socket))
        wait_until(lambda p=process: "ready to accept" in p.text(), "redis has loaded its AOF")
        if i == 0:
            bench.load("redis", socket, depth=250, marks=MARKS)
        else:
            line = re.search(r"DB loaded from append only file: ([\d.]+)", process.text())
            found.append(1000 * float(line[1]))
        process.stop()
    return found


def replay_rows(bench):
    times = []
    daemon = bench.daemon("replay", journal=ROOM_FOR_MARKS, config=ONLY_ASKED)
    drive = daemon.add_drive("replayed", durability="process-crash")
    for i in range(bench.repetitions):
        daemon.ctl("flush")
        bench.load("bitmapd", daemon.socket, depth=250, marks=MARKS, drive=drive,
                   first=i * MARKS)
        daemon.kill()
        daemon.start()
        line = re.search(r"\((\d+) ranges marked.* in (\d+) ms", daemon.process.text())
        assert int(line[1]) == MARKS, line[0]
        times.append(float(line[2]))
    daemon.stop()
    bench.add("replay/1M", "ms", times, redis_loads(bench, bench.repetitions), "redis", 10,
              smaller=True)


def run(bench):
    if any(map(bench.wants, ("load", "start", "store", "writeback"))):
        bench.title("One bitmap of 2^28 bits, every second one dirty")
    if any(map(bench.wants, ("load", "start", "store"))):
        load_rows(bench)
    if bench.wants("writeback"):
        writeback_rows(bench)
    if bench.wants("replay"):
        bench.title("Starts after a crash")
        replay_rows(bench)
