# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resident memory, as what a daemon has more of it afterwards, by bitmap.

`memory/dense`: of 2^28 bits with every chunk dense, beside the limit of 32.5 MiB;
also beside a key of redis with as many bits, and a bitmap of QEMU's.
`memory/empty`: the same of bitmaps without a dirty bit, the limit being 64 KiB.
`memory/1-percent`: of drives of 1 TiB, 1 % of whose granules are dirty, at random
or in runs of 100.  Both make nearly every chunk dense, which is 2 MiB a drive.
"""

import socket

import peers
from harness import accepts, KIB, MIB, TIB, rss_bytes
from rows_scale import NEVER
from rows_storage import CHUNKS, CHUNK_BYTES, GRANULE, dense_image

DENSE, EMPTY = 8, 256


def growth(daemon, count, function):
    before = daemon.rss_bytes()
    function()
    return (daemon.rss_bytes() - before) / count


def redis_bytes(bench):
    path = bench.path("redis-memory.sock")
    pid = bench.start("redis-memory", [
        "redis-server", "--port", "0", "--unixsocket", path, "--dir", bench.directory, "--save", ""
    ], lambda: accepts(path)).popen.pid
    before = rss_bytes(pid)
    redis_setbit(path, DENSE)
    return (rss_bytes(pid) - before) / DENSE


def redis_setbit(path, keys):
    """The last bit of each: the key gets its size."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for i in range(keys):
            connection.sendall(f"SETBIT key{i} {(1 << 28) - 1} 1\r\n".encode())
            assert connection.recv(64) == b":0\r\n"


def qemu_bytes(bench):
    """Of an empty bitmap, and of one that was loaded with every second bit dirty."""
    storage = peers.StorageDaemon(bench, "qsd-memory")
    storage.command("blockdev-add", **{
        "node-name": "null", "driver": "null-co", "size": 16 * TIB, "read-zeroes": True})
    before = rss_bytes(storage.pid)
    for i in range(DENSE):
        storage.command("block-dirty-bitmap-add", node="null", name=f"b{i}", granularity=GRANULE)
    empty = (rss_bytes(storage.pid) - before) / DENSE
    before = rss_bytes(storage.pid)
    storage.open_image("image", dense_image(bench)[0])
    return empty, rss_bytes(storage.pid) - before


def run(bench):
    if not bench.wants("memory"):
        return
    bench.title("Memory")
    daemon = bench.daemon("memory", config=NEVER)

    def drives(name, count, size, bitmap):
        return daemon.probe("drives", name, count, size, GRANULE, "process-crash", bitmap)["first"]

    qemu_empty, qemu_dense = qemu_bytes(bench)
    drives("empty", EMPTY, 16 * TIB, "")
    daemon.probe("flush")

    def add_empty():
        for i in range(EMPTY):
            daemon.ctl("bitmap", "create", f"empty{i}/b")

    empty = [growth(daemon, EMPTY, add_empty)]
    bench.add("memory/empty", "bytes", empty, [64 * KIB], "limit", 1, smaller=True)
    bench.add("memory/empty/qemu", "bytes", empty, [qemu_empty], "qemu-storage-daemon", smaller=True)

    first = drives("dense", DENSE, 16 * TIB, "b")
    dense = [growth(daemon, DENSE, lambda: daemon.probe(
        "stripes", first, DENSE, 0, CHUNK_BYTES, GRANULE, CHUNKS))]
    bench.add("memory/dense", "bytes", dense, [32.5 * MIB], "limit", 1, smaller=True)
    bench.add("memory/dense/redis", "bytes", dense, [redis_bytes(bench)], "redis", smaller=True)
    bench.add("memory/dense/qemu", "bytes", dense, [qemu_dense], "qemu-storage-daemon", smaller=True)

    granules = TIB // GRANULE
    # Requests and batches as large as they get below have been there before.
    warm = drives("warm", 1, TIB, "b")
    daemon.probe("scatter", warm, 1, granules, 1, 1 << 20, 8192, 1)
    for name, length, count in (("random", 1, 20 if bench.quick else 200),
                                ("runs", 100, 50 if bench.quick else 1000)):
        first = drives(name, count, TIB, "b")
        size = growth(daemon, count, lambda f=first, n=length, c=count: daemon.probe(
            "scatter", f, c, granules, n, granules // 100 // n, 8192, 1))
        bench.add(f"memory/1-percent/{name}", "B/drive", [size])
        bench.note(f"  measured with {count} drives of 1 TiB; a thousand have "
                   f"{size * 1000 / MIB:.0f} MiB")
    daemon.stop()
