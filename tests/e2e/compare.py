#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The comparison that the other tests and the demo rely on finds what is missing."""

import json
import os
import sys

import stack as e2e

GRANULE = 4096
SIZE = 10 * GRANULE + 100


def entries(*dirty):
    """A map with these granules dirty."""
    result = []
    for granule in range(11):
        kind = int(granule in dirty)
        length = min(GRANULE, SIZE - granule * GRANULE)
        if result and result[-1]["type"] == kind:
            result[-1]["length"] += length
        else:
            result.append({
                "offset": granule * GRANULE, "length": length, "type": kind,
                "description": "dirty" if kind else "clean"})
    return result


def run(stack, map_entries, code):
    path = stack.path("map.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(map_entries, file)
    result = e2e.run(
        sys.executable, "-B", os.path.join(e2e.HERE, "compare_granules.py"), "--json",
        stack.path("before"), stack.path("after"), path, str(GRANULE), check=False)
    assert result.returncode == code, (map_entries, result)
    return result


def write(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def main():
    with e2e.Stack() as stack:
        before = stack.make_raw("before", SIZE)
        after = stack.make_raw("after", SIZE)
        run(stack, entries(), 0)

        write(before, 2 * GRANULE, b"x" * GRANULE)  # becomes a hole
        write(after, 4 * GRANULE - 1, b"yy")  # was a hole
        write(before, 6 * GRANULE, b"same")
        write(after, 6 * GRANULE, b"same")
        write(after, 8 * GRANULE, bytes(GRANULE))  # still reads the same
        write(after, SIZE - 1, b"z")
        changed = (2, 3, 4, 10)
        result = json.loads(run(stack, entries(*changed), 0).stdout)
        assert result["changed"] == 4 and result["dirty"] == 4 and result["missed"] == 0, result
        result = json.loads(run(stack, entries(*range(11)), 0).stdout)
        assert result["dirty"] == 11 and result["dirty_and_changed"] == 4, result
        for missing in changed:
            result = run(stack, entries(*(set(changed) - {missing})), 1)
            assert "MISSED" in result.stderr
            assert json.loads(result.stdout)["first_missed_offsets"] == [missing * GRANULE], result

        whole = entries(*changed)
        run(stack, whole[:-1], 2)  # ends too early
        run(stack, whole[1:], 2)  # begins too late
        run(stack, whole[:1] + whole[2:], 2)  # has a gap
        run(stack, whole[:1] + [dict(whole[1], type=0)] + whole[2:], 2)
        run(stack, [], 2)
        run(stack, {"entries": whole}, 2)
        os.truncate(before, SIZE - 1)
        run(stack, whole, 2)


if __name__ == "__main__":
    main()
