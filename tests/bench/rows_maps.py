# SPDX-License-Identifier: LGPL-2.1-or-later
"""Maps as clients get them, and merges.

`map/1M/binary`: 1 M dirty runs into a client's memory by libbitmapd, beside
`nbdinfo --totals` on a bitmap with the same bits that qemu-nbd serves;
`map/1M/text`: by `bitmapctl map`, beside `nbdinfo --map`, both into a pipe that
nobody looks into; the programs' starts are in both.  `map/128M`: 2^27 runs, as
many as 2^28 bits can have, and the memory of the client; QEMU's side is
measured once, and not in a quick run, since nbdinfo takes half a minute.

`merge/2^28`: one bitmap of 2^28 bits into another, all chunks of both dense,
beside QEMU's block-dirty-bitmap-merge: `alternate` with every second bit dirty,
`sparse` with one bit in each 8 KiB of the source.
"""

import subprocess

import peers
from harness import KIB, MIB, TIB, timed
from rows_storage import CHUNKS, CHUNK_BYTES, GRANULE, Big, dense_image

EXTENTS = 1 << 20


def run_quietly(*command):
    """Seconds."""
    return timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


def nbdinfo(uri, bitmap, *options):
    """Milliseconds."""
    return 1000 * run_quietly("nbdinfo", *options, f"--map=qemu:dirty-bitmap:{bitmap}", uri)


def bitmapctl(daemon, bitmap):
    return 1000 * run_quietly(daemon.bench.tool("bitmapctl"), "-s", daemon.socket, "map", bitmap)


def map_rows(bench):
    daemon = bench.daemon("maps")
    drive = daemon.probe("drives", "map", 1, 16 * TIB, GRANULE, "process-crash", "b")["first"]
    daemon.probe("stripes", drive, 1, 0, 2 * GRANULE, GRANULE, EXTENTS)
    image = bench.path("million.qcow2")
    peers.make_image(image, 16 * TIB, {"b": b"\x55" * (EXTENTS * 2 // 8)})
    uri, server = peers.serve_bitmap(bench, "million", image, "b")

    def binary():
        result = daemon.probe("map", "map0/b")
        assert result["runs"] == EXTENTS, result
        return result["ms"]

    bench.row("map/1M/binary", "ms", binary, lambda: nbdinfo(uri, "b", "--totals"),
              "nbdinfo --totals", 10, smaller=True)
    bench.row("map/1M/text", "ms", lambda: bitmapctl(daemon, "map0/b"), lambda: nbdinfo(uri, "b"),
              "nbdinfo --map", 4, smaller=True)
    server.end()
    daemon.stop()


def large_map_rows(bench):
    daemon = Big.of(bench).daemon
    results = [daemon.probe("map", "big0/b") for _ in range(1 if bench.quick else 3)]
    assert all(result["runs"] > 0.99 * (1 << 27) for result in results), results
    theirs = []
    if not bench.quick and bench.wants("map/128M/binary"):
        uri, server = peers.serve_bitmap(bench, "dense", dense_image(bench)[0], "b")
        theirs = [nbdinfo(uri, "b", "--totals")] * len(results)
        server.end()
    bench.add("map/128M/binary", "ms", [result["ms"] for result in results], theirs,
              "nbdinfo --totals", smaller=True)
    bench.add("map/128M/client-memory", "bytes", [result["rss_bytes"] for result in results])
    if bench.wants("map/128M/text") and not bench.quick:
        bench.add("map/128M/text", "ms", [bitmapctl(daemon, "big0/b")])


def merge_rows(bench):
    daemon = Big.of(bench).daemon
    drive = Big.of(bench).drive
    image = bench.path("merges.qcow2")
    peers.make_image(image, 16 * TIB, {
        "even": b"\x55" * (32 * MIB), "odd": (bytes(8191) + b"\x80") * (4 * KIB),
        "sparse": (b"\x01" + bytes(8191)) * (4 * KIB)})
    storage = peers.StorageDaemon(bench, "qsd-merge")
    storage.open_image("image", image)
    daemon.ctl("bitmap", "create", "big0/sparse")
    daemon.probe("stripes", drive, 1, 0, CHUNK_BYTES // 8, GRANULE, 8 * CHUNKS)
    daemon.ctl("bitmap", "disable", "big0/sparse")
    count = 0

    def theirs(source):
        def measure():
            nonlocal count
            target = f"target{count}"
            count += 1
            storage.command("block-dirty-bitmap-add", node="image", name=target)
            storage.command("block-dirty-bitmap-merge", node="image", target=target,
                            bitmaps=["odd"])
            time = 1000 * timed(lambda: storage.command(
                "block-dirty-bitmap-merge", node="image", target=target, bitmaps=[source]))
            storage.command("block-dirty-bitmap-remove", node="image", name=target)
            return time
        return measure

    for name, bitmap, source in (("alternate", "b", "even"), ("sparse", "sparse", "sparse")):
        bench.row(f"merge/2^28/{name}", "ms",
                  lambda b=bitmap: daemon.probe("merge", "big0", b, CHUNK_BYTES, CHUNKS)["ms"],
                  theirs(source), "QEMU's merge", 50, smaller=True)
    daemon.ctl("bitmap", "delete", "big0/sparse")


def run(bench):
    if bench.wants("map"):
        bench.title("Maps")
        map_rows(bench)
        large_map_rows(bench)
    if bench.wants("merge"):
        bench.title("Merges of two bitmaps of 2^28 bits")
        merge_rows(bench)
