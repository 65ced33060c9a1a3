#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Proves that a dirty bitmap missed nothing.

    compare_granules.py [--picture] [--json] BEFORE AFTER MAP GRANULARITY

Compares the drive AFTER with its earlier copy BEFORE, granule by granule of
GRANULARITY bytes, and looks up each one that differs in MAP, the output of
"bitmapctl -o json map".  Exit status: 0 when every changed granule is dirty,
1 when one is clean, 2 when there is nothing to compare with.

Extra dirty granules are no fault: what was written twice, or written as it
was, is dirty and unchanged.  How many there are is printed.

Only what is data in either file is read: a hole on both sides is equal.
"""

import argparse
import errno
import json
import os
import sys

READ_BYTES = 4 << 20


def fail(words):
    print(f"compare_granules: {words}", file=sys.stderr)
    sys.exit(2)


def size_of(fd):
    return os.lseek(fd, 0, os.SEEK_END)  # of block devices too


def data_ranges(fd, size):
    """Yields (begin, end) of what is not a hole."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            if error.errno == errno.EINVAL:
                yield offset, size  # it cannot tell: all of it
                return
            raise
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end
        offset = end


def granules_with_data(fds, size, granularity):
    """Ordered, disjoint (first, end) granule numbers of what is data in any of the files."""
    ranges = sorted(
        (begin // granularity, -(-end // granularity))
        for fd in fds
        for begin, end in data_ranges(fd, size)
    )
    merged = []
    for first, end in ranges:
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([first, end])
    return merged


def read_exactly(fd, count, offset):
    data = b""
    while len(data) < count:
        piece = os.pread(fd, count - len(data), offset + len(data))
        if not piece:
            fail(f"unexpected end of file at byte {offset + len(data)}")
        data += piece
    return data


def changed_granules(before, after, size, granularity):
    """The set of granules that differ, and how many were read."""
    changed = set()
    read = 0
    step = max(1, READ_BYTES // granularity)
    for first, end in granules_with_data((before, after), size, granularity):
        read += end - first
        for granule in range(first, end, step):
            offset = granule * granularity
            count = min(step * granularity, end * granularity - offset, size - offset)
            old = read_exactly(before, count, offset)
            new = read_exactly(after, count, offset)
            if old == new:
                continue
            for i in range(0, count, granularity):
                if old[i:i + granularity] != new[i:i + granularity]:
                    changed.add(granule + i // granularity)
    return changed, read


def dirty_granules(entries, size, granularity):
    """The set of dirty granules of a map, which has to be whole and in order."""
    dirty = set()
    expected = 0
    previous = None
    for entry in entries:
        offset, length, kind = entry["offset"], entry["length"], entry["type"]
        if offset != expected or length <= 0:
            fail(f"map: expected an entry at {expected}, found {entry}")
        if entry["description"] != {0: "clean", 1: "dirty"}.get(kind):
            fail(f"map: type and description disagree: {entry}")
        if kind == previous:
            fail(f"map: neighbours of one type are not merged: {entry}")
        if offset % granularity or (length % granularity and offset + length != size):
            fail(f"map: not in granules of {granularity} bytes: {entry}")
        if kind == 1:
            dirty.update(range(offset // granularity, -(-(offset + length) // granularity)))
        expected = offset + length
        previous = kind
    if expected != size:
        fail(f"map: ends at {expected}, the drive at {size}")
    return dirty


def picture(dirty, granules, columns=64, rows=4):
    """The drive as a few lines of text, from first to last byte."""
    cells = min(columns * rows, granules)
    counts = [0] * cells
    sizes = [0] * cells
    for cell in range(cells):
        first, end = cell * granules // cells, (cell + 1) * granules // cells
        sizes[cell] = end - first
        counts[cell] = sum(1 for granule in range(first, end) if granule in dirty)
    text = "".join(
        "." if count == 0 else "#" if count == size else "+"
        for count, size in zip(counts, sizes)
    )
    return [text[i:i + columns] for i in range(0, cells, columns)]


def compare(before_path, after_path, map_path, granularity):
    before = os.open(before_path, os.O_RDONLY)
    after = os.open(after_path, os.O_RDONLY)
    try:
        size = size_of(after)
        if size_of(before) != size:
            fail(f"{before_path} has {size_of(before)} bytes, {after_path} {size}")
        with open(map_path, encoding="utf-8") as file:
            dirty = dirty_granules(json.load(file), size, granularity)
        changed, read = changed_granules(before, after, size, granularity)
    finally:
        os.close(before)
        os.close(after)
    missed = sorted(changed - dirty)
    return {
        "granularity": granularity,
        "granules": -(-size // granularity),
        "compared": read,
        "changed": len(changed),
        "dirty": len(dirty),
        "dirty_and_changed": len(dirty & changed),
        "missed": len(missed),
        "first_missed_offsets": [granule * granularity for granule in missed[:10]],
    }, dirty


def print_report(result):
    print(f"  granules of {result['granularity']} bytes  {result['granules']:8}")
    print(f"  changed on the drive     {result['changed']:8}")
    print(f"  dirty in the bitmap      {result['dirty']:8}")
    if result["dirty"]:
        precision = 100 * result["dirty_and_changed"] / result["dirty"]
        print(f"  precision                {precision:7.1f}%  of the dirty granules really changed")
    print(f"  changed but clean        {result['missed']:8}")


def main():
    parser = argparse.ArgumentParser(add_help=True)
    parser.add_argument("--picture", action="store_true", help="draw the drive")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("map")
    parser.add_argument("granularity", type=int)
    options = parser.parse_args()
    if options.granularity < 1:
        fail("the granularity is not positive")

    try:
        result, dirty = compare(options.before, options.after, options.map, options.granularity)
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{type(error).__name__}: {error}")
    if options.json:
        print(json.dumps(result))
    else:
        if options.picture:
            for line in picture(dirty, result["granules"]):
                print(f"  {line}")
        print_report(result)
    if result["missed"]:
        print(
            f"compare_granules: MISSED: {result['missed']} changed granules are clean in the bitmap,"
            f" the first at bytes {result['first_missed_offsets']}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
