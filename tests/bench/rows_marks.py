# SPDX-License-Identifier: LGPL-2.1-or-later
"""Marks against SETBIT of redis and against the bare reference server.

`unsynced/C/P`: bitmapd's process-crash beside a redis without AOF; `everysec`:
the same beside a redis that writes its AOF each turn and syncs it each second,
which promises as much; `synced`: power-loss beside AOF always; `dirty`:
power-loss, ranges that are durably dirty already, beside a redis without AOF.
C clients, P requests in flight of each.  From P = 64 on a row has a second one
with one range in each frame, `…/single`; without that the P are one frame.
"""

import os

from harness import accepts

SHAPES = ((1, 1), (50, 1), (1, 64), (1, 256), (4, 64), (4, 256))
UNSYNCED = dict(zip(SHAPES, (1.0, 1.1, 1.5, 3, 3.5, 7)))
SYNCED = dict(zip(SHAPES, (1.05, 1.3, 1.5, 2, 1.8, 2.5)))
WINDOW = 1 << 20  # marks that are already dirty come from so many


class Peer:
    """A server that takes marks, and where its next fresh one is."""

    def __init__(self, bench, protocol, socket, drive=1):
        self.bench = bench
        self.protocol = protocol
        self.socket = socket
        self.drive = drive
        self.next = 0
        self.latency = {}

    def rate(self, shape, ranges=1, window=None, ms=None):
        more = {"window": window} if window else {}
        result = self.bench.load(
            self.protocol, self.socket, clients=shape[0], depth=shape[1], ranges=ranges,
            first=0 if window else self.next, drive=self.drive, ms=ms, **more)
        if not window:
            self.next = result["next"]
        self.latency = result
        return result["rate"]


def start_redis(bench, name, *options):
    directory = bench.path(name)
    os.makedirs(directory)
    socket = os.path.join(directory, "redis.sock")
    bench.start(name, [
        "redis-server", "--port", "0", "--unixsocket", socket, "--dir", directory, "--save", "",
        "--auto-aof-rewrite-percentage", "0", *options], lambda: accepts(socket))
    peer = Peer(bench, "redis", socket)
    peer.rate((1, 256), ms=100)  # the key grows to its size
    return peer


def start_reference(bench, name, *options):
    socket = bench.path(f"{name}.sock")
    bench.start(name, [bench.tool("reference"), *options, socket], lambda: accepts(socket))
    return Peer(bench, "reference", socket)


def latency_row(bench, name, peer, values):
    for key in ("p50_us", "p99_us", "p999_us"):
        bench.add(f"latency/{name}/{key[:-3]}", "µs", [value[key] for value in values[0]],
                  [value[key] for value in values[1]], peer, smaller=True)


def compare(bench, name, ours, peer, peer_name, ceiling, aims, window=None):
    for shape in SHAPES:
        whole = f"{name}/{shape[0]}/{shape[1]}"
        latencies = ([], [])

        def mine(ranges, kept=None):
            def measure():
                rate = ours.rate(shape, ranges, window)
                if kept is not None:
                    kept.append(ours.latency)
                return rate
            return measure

        def theirs(kept):
            def measure():
                rate = peer.rate(shape, window=window)
                kept.append(peer.latency)
                return rate
            return measure

        many = shape[1] >= 64
        bench.row(whole, "marks/s", mine(shape[1] if many else 1, latencies[0]),
                  theirs(latencies[1]), peer_name, aims.get(shape))
        if latencies[0]:
            bench.latencies.append((whole, peer_name, latencies))
        if many:
            bench.row(f"{whole}/single", "marks/s", mine(1), theirs([]), peer_name)
        if ceiling:
            bench.row(f"{whole}/ceiling", "marks/s", mine(shape[1] if many else 1),
                      lambda: ceiling.rate(shape, window=window), "reference")


def cpu_row(bench, name, daemon, ours, shape, ranges):
    def measure():
        before = daemon.cpu_seconds()
        result = ours.rate(shape, ranges, ms=10 * bench.cell_ms)
        return (daemon.cpu_seconds() - before) / (result * 10 * bench.cell_ms / 1000) * 1e6

    if bench.wants(name):
        bench.add(name, "s/M marks", [measure() for _ in range(1 if bench.quick else 3)])


def run(bench):
    names = ("unsynced", "everysec", "synced", "dirty", "latency", "cpu")
    if not any(bench.wants(name) for name in names):
        return
    bench.latencies = []
    daemon = bench.daemon("marks")
    power = Peer(bench, "bitmapd", daemon.socket, daemon.add_drive("power"))
    crash = Peer(bench, "bitmapd", daemon.socket,
                 daemon.add_drive("crash", durability="process-crash"))
    for peer in (power, crash):
        peer.rate((1, 256), 256, ms=100)

    bench.title("Marks, C clients × P in flight")
    plain = start_redis(bench, "redis", "--appendonly", "no")
    if bench.wants("unsynced"):
        compare(bench, "unsynced", crash, plain, "redis", start_reference(bench, "bare"), UNSYNCED)
    if bench.wants("everysec"):
        compare(bench, "everysec", crash, start_redis(
            bench, "redis-everysec", "--appendonly", "yes", "--appendfsync", "everysec"),
                "redis everysec", None, {})
    if bench.wants("synced"):
        compare(bench, "synced", power, start_redis(
            bench, "redis-always", "--appendonly", "yes", "--appendfsync", "always"),
                "redis", start_reference(bench, "bare-synced", "--log", bench.path("log")), SYNCED)
    if bench.wants("dirty"):
        for peer in (power, plain):
            peer.rate((1, 256), 256 if peer is power else 1, window=WINDOW, ms=600)
        daemon.ctl("flush")
        compare(bench, "dirty", power, plain, "redis", None, UNSYNCED, window=WINDOW)

    if bench.latencies and bench.wants("latency"):
        bench.title("Latency of the same requests, from send to answer")
        for name, peer, values in bench.latencies:
            latency_row(bench, name, peer, values)
    if bench.wants("cpu"):
        bench.title("Processor time of the daemon, all its threads")
        for name, peer in (("unsynced", crash), ("synced", power)):
            for shape in SHAPES:
                ranges = shape[1] if shape[1] >= 64 else 1
                cpu_row(bench, f"cpu/{name}/{shape[0]}/{shape[1]}", daemon, peer, shape, ranges)
