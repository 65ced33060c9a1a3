# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU beside us: its storage daemon over QMP, and qcow2 images with bitmaps that are as full as
ours.

Nothing fills a bitmap of QEMU's of 2^28 bits in reasonable time, so the clusters of one that
`qemu-img bitmap` made are written here, as QEMU's docs/interop/qcow2.txt describes them.
"""

import json
import os
import socket
import struct
import subprocess

import harness

CLUSTER = 65536
BITMAPS_EXTENSION = 0x23852875


class StorageDaemon:
    """A qemu-storage-daemon, and one QMP connection to it."""

    def __init__(self, bench, name):
        path = bench.path(f"{name}.qmp")
        self.process = bench.start(name, [
            "qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={path},server=on,wait=off",
            "--monitor", "chardev=qmp"], lambda: harness.accepts(path))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(300)
        self.socket.connect(path)
        bench.callback(self.socket.close)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.lines.readline()
        self.command("qmp_capabilities")

    @property
    def pid(self):
        return self.process.popen.pid

    def command(self, verb, **arguments):
        words = {"execute": verb} | ({"arguments": arguments} if arguments else {})
        self.socket.sendall(json.dumps(words).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise AssertionError(f"{verb}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def open_image(self, node, path):
        """Loads all bitmaps of it."""
        self.command("blockdev-add", **{
            "node-name": node, "driver": "qcow2", "file": {"driver": "file", "filename": path}})

    def close_image(self, node):
        """Stores all bitmaps of it."""
        self.command("blockdev-del", **{"node-name": node})


def make_image(path, size, bitmaps, granularity=65536):
    """A qcow2 with persistent bitmaps: a name, and the bytes that its first clusters begin with,
    the rest being clean."""
    def img(*arguments):
        subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)

    img("create", "-q", "-f", "qcow2", path, str(size))
    for name in bitmaps:
        img("bitmap", "--add", "-g", str(granularity), path, name)
    if bitmaps:
        with open(path, "r+b") as file:
            for name, table in bitmap_tables(file).items():
                fill_table(file, *table, bitmaps[name])
    img("check", "-q", path)


def read_at(file, offset, layout):
    file.seek(offset)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def bitmap_tables(file):
    """For each bitmap where its table is, and how many entries that has."""
    offset, = read_at(file, 100, ">I")
    kind, length = read_at(file, offset, ">II")
    while kind != BITMAPS_EXTENSION:
        offset += 8 + (length + 7 & ~7)
        kind, length = read_at(file, offset, ">II")
    count, _, _, directory = read_at(file, offset + 8, ">IIQQ")
    tables = {}
    for _ in range(count):
        table, entries, _, _, _, name_bytes, extra_bytes = read_at(file, directory, ">QIIBBHI")
        name, = read_at(file, directory + 24 + extra_bytes, f"{name_bytes}s")
        tables[name.decode()] = (table, entries)
        directory += 24 + extra_bytes + name_bytes + 7 & ~7
    return tables


def fill_table(file, table, entries, content):
    """Adds clusters with @content at the file's end; one refcount block has them all."""
    refcount_table, = read_at(file, 48, ">Q")
    refcount_block, = read_at(file, refcount_table, ">Q")
    end = file.seek(0, os.SEEK_END)
    first = (end + CLUSTER - 1) // CLUSTER
    clusters = (len(content) + CLUSTER - 1) // CLUSTER
    assert clusters <= entries and (first + clusters) * 2 <= CLUSTER
    file.seek(first * CLUSTER)
    file.write(content + bytes(clusters * CLUSTER - len(content)))
    file.seek(table)
    file.write(b"".join(struct.pack(">Q", (first + i) * CLUSTER) for i in range(clusters)))
    file.seek(refcount_block + 2 * first)
    file.write(struct.pack(">H", 1) * clusters)


def serve_bitmap(bench, name, image, bitmap):
    """The URI of an export with the bitmap's context, and the server, which locks the image."""
    path = bench.path(f"{name}.nbd")
    process = bench.start(name, [
        "qemu-nbd", "-r", "-t", "-e", "8", "-f", "qcow2", "-B", bitmap, "-k", path, image],
                          lambda: harness.accepts(path))
    return f"nbd+unix:///?socket={path}", process
