#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A block device as the raw drive: sizes, alignment, zeroing and trimming there."""

import json
import os

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 32 << 20


def main():
    e2e.need_tools("nbdkit", "losetup", "nbdinfo")
    e2e.need_root()
    with e2e.Stack() as stack:
        backing = stack.make_raw("backing", SIZE)
        with open(backing, "r+b") as file:
            file.write(os.urandom(SIZE))
        device = stack.attach_loop(backing)
        before = stack.copy(backing)
        stack.start_daemon()
        stack.add_drive("lun", device)
        assert stack.ctl_json("drive", "show", "lun")["size"] == SIZE
        nbdkit = stack.start_nbdkit(device, "lun")

        info = json.loads(e2e.run("nbdinfo", "--no-content", "--json", nbdkit.uri).stdout)["exports"][0]
        assert info["export-size"] == SIZE, info

        expected = bytearray(open(before, "rb").read())
        with nbd.Client(nbdkit.socket) as client:
            def put(offset, data):
                expected[offset:offset + len(data)] = data

            client.write(GRANULE, b"a" * 4096)
            put(GRANULE, b"a" * 4096)
            client.write(3 * GRANULE + 1, b"b" * 3)  # not in sectors
            put(3 * GRANULE + 1, b"b" * 3)
            for flags in (0, nbd.NO_HOLE):
                offset = (5 if flags else 8) * GRANULE
                client.zero(offset, GRANULE, flags)
                put(offset, bytes(GRANULE))
                client.zero(offset + GRANULE + 7, 9000, flags)  # cut at both ends
                put(offset + GRANULE + 7, bytes(9000))
                client.zero(offset + 2 * GRANULE + 3, 5, flags)  # within a sector
                put(offset + 2 * GRANULE + 3, bytes(5))
            client.flush()
            e2e.wait_until(lambda: stack.unsettled("lun") == 0, "everything is settled")
            # What a trim leaves is the device's choice; that it is dirty is not.
            client.trim(16 * GRANULE, GRANULE)
            client.trim(18 * GRANULE + 100, 100)
            assert client.read(18 * GRANULE, 4096) == bytes(expected[18 * GRANULE:][:4096])
            put(16 * GRANULE, client.read(16 * GRANULE, GRANULE))
            client.write(SIZE - 512, b"e" * 512, nbd.FUA)
            put(SIZE - 512, b"e" * 512)
            assert client.read(0, SIZE // 2) + client.read(SIZE // 2, SIZE // 2) == expected
        nbdkit.stop()

        e2e.run("blockdev", "--flushbufs", device)
        stack.detach_loop(device)
        with open(backing, "rb") as file:
            assert file.read() == expected, "the device does not hold what was written"
        found = stack.dirty_ranges("lun/b")
        assert found == [
            (GRANULE, GRANULE), (3 * GRANULE, GRANULE), (5 * GRANULE, 6 * GRANULE),
            (16 * GRANULE, GRANULE), (18 * GRANULE, GRANULE), (SIZE - GRANULE, GRANULE)], found
        stack.compare(before, backing, "lun/b")


if __name__ == "__main__":
    main()
