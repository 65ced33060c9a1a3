# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must not grow: the cost of a mark and of a checkpoint, and what an idle daemon does.

`scale/WHAT/LEVEL`: marks/s of 4 clients with 64 ranges in one frame each, beside
the same in the simplest case, of the same daemon unless said otherwise:
`drives` (frames to 1,000 drives of 16 GiB in turn; one of 16 TiB), `connections`
(1,000 idle ones; a daemon without), `checkpoints` (256; one), `disabled` (256
bitmaps that do not record any more; none), `dense` (half of the bitmap dirty
before; fresh bits all the same, nothing dirty).
`scale/whole-drive`: one mark of a drive of 16 TiB, beside that of one granule,
each into a bitmap that has been cleared: 512 chunks instead of one bit.

`checkpoint/SIZE/CONTENT`: one more checkpoint of a drive, beside two times a
pwrite(2) of 4 KiB and fdatasync(2) in a file that is written already.

`during-write-back`: p99.9 of synced marks, 4 clients with 64 in flight, one
range in each frame, while all 32 MiB are written back four times a second,
beside the same without.

`idle/wakeups`: voluntary context switches of all threads while nothing happens,
plus one, beside none, plus one; and beside those of a redis.
"""

import os
import time

from harness import accepts, GIB, MIB, TIB
from rows_storage import CHUNKS, CHUNK_BYTES, GRANULE, LARGE_JOURNAL

SHAPE = {"clients": 4, "depth": 64}
LEVELS = {"unsynced": "process-crash", "synced": "power-loss"}
MANY = 1000
OTHERS = 256
AIM = 0.8  # as fast as without; the rest is noise
NEVER = """flush:
  interval: 24h
  dirty_limit: 4G
"""
# So that no write-back is in one figure and not in the other.
ROOM = NEVER + """limits:
  connections: 2000
"""


class Marks:
    """Fresh marks to a drive, or to several."""

    def __init__(self, daemon, drive, **more):
        self.daemon = daemon
        self.more = more | {"drive": drive}
        self.next = 0

    def run(self, ranges=64, ms=None):
        result = self.daemon.bench.load("bitmapd", self.daemon.socket, **SHAPE, ranges=ranges,
                                        first=self.next, ms=ms, **self.more)
        self.next = result["next"]
        return result

    def rate(self):
        return self.run(ms=max(150, self.daemon.bench.cell_ms))["rate"]


def compare(bench, what, level, many, one, peer):
    for marks in (many, one):
        marks.run(ms=100)
        marks.daemon.probe("flush")
    bench.row(f"scale/{what}/{level}", "marks/s", many.rate, one.rate, peer, AIM)


def mark_rows(bench):
    daemon = bench.daemon("scale", journal=LARGE_JOURNAL, config=ROOM)
    crowded = bench.daemon("crowded", journal=LARGE_JOURNAL, config=ROOM)
    for level, durability in LEVELS.items():
        def drives(where, name, count=1, size=16 * TIB, bitmap="b", level=durability):
            return where.probe("drives", f"{name}-{level}", count, size, GRANULE, level,
                               bitmap)["first"]

        def fresh(name, **more):
            return Marks(daemon, drives(daemon, name), **more)

        if bench.wants(f"scale/drives/{level}"):
            many = drives(daemon, "many", MANY, 16 * GIB)
            compare(bench, "drives", level, Marks(daemon, many, drives=MANY, bits_log2=18),
                    fresh("one"), "1 drive")
        if bench.wants(f"scale/connections/{level}"):
            process = bench.start("connections", [bench.tool("probe"), "connections", str(MANY)],
                                  lambda: crowded.ctl_json("status")["connections"] > MANY,
                                  os.environ | {"BITMAPD_SOCKET": crowded.socket})
            compare(bench, "connections", level, Marks(crowded, drives(crowded, "busy")),
                    fresh("quiet"), "no others")
            process.kill()
        if bench.wants(f"scale/checkpoints/{level}"):
            few, many = (Marks(daemon, drives(daemon, name, bitmap=""))
                         for name in ("few", "often"))
            daemon.probe("checkpoints", f"few-{durability}0", "c", 1)
            daemon.probe("checkpoints", f"often-{durability}0", "c", OTHERS)
            compare(bench, "checkpoints", level, many, few, "1 checkpoint")
        if bench.wants(f"scale/disabled/{level}"):
            many = fresh("disabled")
            daemon.probe("bitmaps", f"disabled-{durability}0", "d", OTHERS)
            compare(bench, "disabled", level, many, fresh("enabled"), "none")
        if bench.wants(f"scale/dense/{level}"):
            full, empty = (fresh(name, half=True, bits_log2=27) for name in ("full", "empty"))
            daemon.probe("stripes", full.more["drive"], 1, 0, 128 * GRANULE, 64 * GRANULE, 1 << 21)
            compare(bench, "dense", level, full, empty, "empty")
    if bench.wants("scale/whole-drive"):
        drive = daemon.probe("drives", "whole", 1, 16 * TIB, GRANULE, "process-crash", "b")["first"]
        whole, one = (
            lambda n=length: 1000 * daemon.probe("mark", "whole0/b", drive, n, 50)["ms"]
            for length in (16 * TIB, GRANULE))
        bench.row("scale/whole-drive", "µs", whole, one, "1 granule", 0.5, smaller=True)
    daemon.stop()
    crowded.stop()


def checkpoint_rows(bench):
    daemon = bench.daemon("checkpoints", config=NEVER)

    samples = 3 if bench.quick else 7  # each the first thing that a program does

    def median(function):
        return sorted(function() for _ in range(samples))[samples // 2]

    def two_commits():
        return 2 * median(lambda: bench.probe(
            "sync", bench.path("commits"), 16 * MIB, 4096, 1, 1)["ms"])

    for label, size in (("1G", GIB), ("1T", TIB), ("16T", 16 * TIB)):
        granules = size // GRANULE
        for content in ("empty", "1M-granules", "dense"):
            name = f"{label}-{content}-"
            drive = daemon.probe("drives", name, 1, size, GRANULE, "power-loss", "")["first"]
            daemon.probe("checkpoints", f"{name}0", "first", 1)
            count = 0

            def fill(drive=drive, granules=granules, content=content):
                if content == "1M-granules":
                    daemon.probe("scatter", drive, 1, granules, 1, min(1 << 20, granules // 2),
                                 8192, count)
                elif content == "dense":
                    chunks = max(1, granules >> 19)
                    daemon.probe("stripes", drive, 1, 0, min(CHUNK_BYTES, granules * GRANULE),
                                 GRANULE, chunks)

            def create(name=name, fill=fill):
                def one():
                    nonlocal count
                    fill()
                    count += 1
                    return daemon.probe("checkpoints", f"{name}0", f"c{count}-", 1)["ms"]
                return median(one)

            bench.row(f"checkpoint/{label}/{content}", "ms", create, two_commits, "2 commits", 1,
                      smaller=True)
    daemon.stop()


def write_back_row(bench):
    daemon = bench.daemon("during", config=NEVER)
    marks = Marks(daemon, daemon.probe(
        "drives", "during", 1, 16 * TIB, GRANULE, "power-loss", "b")["first"])
    marks.run(ranges=64, ms=300)
    ms = max(500, 3 * bench.cell_ms)

    def measure():
        return marks.run(ranges=1, ms=ms)

    def during():
        before = daemon.ctl_json("status")["flushes"]
        process = bench.start("flushes", [bench.tool("probe"), "flushes", "250"], lambda: True,
                              os.environ | {"BITMAPD_SOCKET": daemon.socket})
        result = measure()
        process.kill()
        assert daemon.ctl_json("status")["flushes"] > before
        return result

    results = [(during(), measure()) for _ in range(bench.repetitions)]
    for key in ("p50_us", "p99_us", "p999_us"):
        bench.add(f"during-write-back/{key[:-3]}", "µs", [pair[0][key] for pair in results],
                  [pair[1][key] for pair in results], "without", smaller=True)
    daemon.stop()


def switches(pid):
    """Voluntary ones of all its threads so far."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as file:
            total += next(int(line.split()[1]) for line in file
                          if line.startswith("voluntary_ctxt_switches:"))
    return total


def idle_rows(bench):
    daemon = bench.daemon("idle", journal=LARGE_JOURNAL, config=ROOM)
    drive = daemon.add_drive("idle")
    daemon.probe("stripes", drive, 1, 0, CHUNK_BYTES, GRANULE, CHUNKS)
    daemon.ctl("flush")
    socket = bench.path("redis-idle.sock")
    redis = bench.start("redis-idle", [
        "redis-server", "--port", "0", "--unixsocket", socket, "--dir", bench.directory,
        "--save", ""], lambda: accepts(socket)).popen.pid
    time.sleep(1.5)
    pids = (daemon.process.popen.pid, redis)
    before = [switches(pid) for pid in pids]
    time.sleep(5)
    ours, theirs = (1 + switches(pid) - old for pid, old in zip(pids, before))
    bench.add("idle/wakeups", "in 5 s, + 1", [ours], [1], "none", 1, smaller=True)
    bench.add("idle/wakeups/redis", "in 5 s, + 1", [ours], [theirs], "redis", smaller=True)
    daemon.stop()


def run(bench):
    if bench.wants("scale"):
        bench.title("What a mark costs when there is more of everything")
        mark_rows(bench)
    if bench.wants("checkpoint"):
        bench.title("Checkpoints")
        checkpoint_rows(bench)
    if bench.wants("during-write-back"):
        bench.title("Latency of marks during a write-back")
        write_back_row(bench)
    if bench.wants("idle"):
        bench.title("Nothing to do")
        idle_rows(bench)
