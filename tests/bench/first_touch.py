#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes through the nbdkit plugin, beside `nbdkit file` on the same file system.

    first_touch.py [--quick] [--json FILE] BUILD [ROW-PREFIX …]

fio writes to one connection, mostly one write at a time, so that a write that
has to wait for its mark waits alone: `clean`, no granule is dirty; `dirty`, all
are, durably, and the mark costs a round trip.  `align-…` is the plugin's
mark-align, 1 its default.  Both files are sparse and empty before each cell,
nothing of the plugin's is unsettled, and nothing is flushed meanwhile: what is
written stays in the page cache on both sides.

Cells of one pattern, block size and depth are taken in turn, in another order
each time; the ratios of a repetition are those to its own cell of `nbdkit
file`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

import harness

from nbd import Client  # tests/e2e, which the harness has put into the path

SIZE = 256 * harness.GIB  # so large that a random range has hardly ever been touched
PEER = "nbdkit file"
ALIGNS = ("64K", "1M", "4M")
WRITES_MAX = {"4k": 1 << 20, "64k": 8192, "1M": 512}  # the page cache has to hold them


class Served:
    """A sparse file behind an nbdkit of its own; here the peer's."""

    drive = None

    def __init__(self, bench, name, plugin="file", *parameters):
        self.raw = bench.path(f"{name}.raw")
        self.socket = bench.path(f"{name}.nbd")
        self.empty()
        self.prepare()
        bench.start(f"nbdkit-{name}", [
            "nbdkit", "--foreground", "--unix", self.socket, plugin, f"file={self.raw}",
            *parameters], lambda: harness.accepts(self.socket))

    def prepare(self):
        pass

    def empty(self):
        with open(self.raw, "ab") as file:
            file.truncate(0)
            file.truncate(SIZE)

    def make(self, state):
        """Nothing in the file or on its way to it, nothing unsettled."""
        self.empty()
        with Client(self.socket) as client:
            client.flush()


class Tracked(Served):
    """The same through our plugin."""

    def __init__(self, bench, daemon, align, durability="power-loss"):
        self.daemon = daemon
        self.durability = durability
        self.drive = f"{durability}-{align}"
        super().__init__(
            bench, self.drive, os.path.join(bench.build, "client/nbdkit/nbdkit-bitmapd-plugin.so"),
            f"drive={self.drive}", f"socket={daemon.socket}", f"mark-align={align}")

    def prepare(self):
        self.daemon.ctl("drive", "add", self.drive, "--path", self.raw,
                        "--durability", self.durability, "--granularity", "64K")
        self.daemon.ctl("bitmap", "create", f"{self.drive}/b")

    def make(self, state):
        super().make(state)
        if state == "dirty":
            self.daemon.ctl("bitmap", "set", f"{self.drive}/b", "0", str(SIZE))
            self.daemon.ctl("flush")
        else:
            self.daemon.ctl("bitmap", "clear", f"{self.drive}/b", "--all")


def fio(served, pattern, block, depth, ms):
    """Writes for @ms: {"rate", "p50_us", "p99_us"}."""
    command = [
        "fio", "--name=touch", "--output-format=json", "--ioengine=nbd",
        f"--uri=nbd+unix:///?socket={served.socket}",
        f"--rw={'randwrite' if pattern == 'random' else 'write'}", f"--bs={block}",
        f"--iodepth={depth}", "--norandommap", "--randrepeat=0", "--thread",
        f"--runtime={ms}ms", "--time_based", f"--number_ios={WRITES_MAX[block]}"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            timeout=60, check=False)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {result.stderr}{result.stdout}")
    # What it has to say comes before the JSON.
    write = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]["write"]
    latency = write["clat_ns"]
    return {"rate": write["iops"], "p50_us": latency["percentile"]["50.000000"] / 1000,
            "p99_us": latency["percentile"]["99.000000"] / 1000}


def group(bench, name, peer, cells, pattern, block, depth):
    """Measures @cells, (row, served, state), and the peer with each repetition."""
    cells = [cell for cell in cells if bench.wants(cell[0])]
    if not cells:
        return
    cells.append((PEER, peer, None))
    taken = {cell[0]: [] for cell in cells}
    for i in range(bench.touch_repetitions):
        turn = cells if i % 2 == 0 else cells[::-1]
        first = i * len(turn) // bench.touch_repetitions
        for row, served, state in turn[first:] + turn[:first]:
            served.make(state)
            taken[row].append(fio(served, pattern, block, depth, bench.touch_ms))
    for row, _, _ in cells[:-1]:
        bench.add(row, "writes/s", [cell["rate"] for cell in taken[row]],
                  [cell["rate"] for cell in taken[PEER]], PEER)
        if block == "4k":
            for key in ("p50_us", "p99_us"):
                bench.add(f"{row}/{key[:-3]}", "µs", [cell[key] for cell in taken[row]],
                          [cell[key] for cell in taken[PEER]], PEER, smaller=True)


def run(bench):
    if not bench.wants("first-touch"):
        return
    need_programs()
    bench.touch_repetitions = 1 if bench.quick else 4
    bench.touch_ms = 150 if bench.quick else 500
    daemon = bench.daemon("touch")
    peer = Served(bench, "file")
    tracked = {align: Tracked(bench, daemon, align) for align in ("1", *ALIGNS)}
    crash = Tracked(bench, daemon, "64K", "process-crash")

    for pattern in ("random", "sequential"):
        for block in WRITES_MAX:
            name = f"first-touch/{pattern}/{block}"
            aligns = tracked if block == "4k" else ALIGNS
            cells = [(f"{name}/align-{align}/{state}", tracked[align], state)
                     for align in aligns for state in ("clean", "dirty")]
            if block == "4k":
                cells.append((f"{name}/align-64K/clean/process-crash", crash, "clean"))
            bench.title(f"First touch: {pattern} writes of {block}, one at a time")
            group(bench, name, peer, cells, pattern, block, 1)
    name = "first-touch/random/4k/depth-16"
    bench.title("First touch: random writes of 4k, sixteen at a time")
    group(bench, name, peer, [(f"{name}/align-64K/{state}", tracked["64K"], state)
                              for state in ("clean", "dirty")], "random", "4k", 16)


def rows(bench):
    """The rows of run(), for those who want nothing else of @bench."""
    before = len(bench.rows)
    run(bench)
    return bench.rows[before:]


def need_programs():
    """nbdkit is what the tests run too; fio, with its NBD engine, is only for this."""
    missing = [name for name in ("nbdkit", "fio") if shutil.which(name) is None]
    if missing:
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        install = [*sudo, "apt-get", "-q", "-y", "install", "--no-install-recommends", *missing]
        if shutil.which("apt-get") is None or subprocess.run(
                install, stdout=sys.stderr, check=False).returncode != 0:
            sys.exit(f"not installed: {' '.join(missing)}")
    engines = subprocess.run(["fio", "--enghelp"], stdout=subprocess.PIPE, text=True, check=True)
    if "nbd" not in engines.stdout.split():
        sys.exit("this fio has no NBD engine")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="every row, but briefly")
    parser.add_argument("--json", help="where the rows go; default: first_touch.json in the build")
    parser.add_argument("build", help="a release build")
    parser.add_argument("only", nargs="*", help="rows whose id begins like this")
    arguments = parser.parse_args()
    with harness.Bench(arguments.build, arguments.quick, arguments.only) as bench:
        path = os.path.abspath(arguments.json or os.path.join(bench.build, "first_touch.json"))
        measured = rows(bench)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "rows": measured}, file, indent=1)
            file.write("\n")
        print(path)


if __name__ == "__main__":
    sys.exit(main())
