#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""coverage.py BUILD [FOLDER]: line coverage by folder, or by file of a folder, of what has run in BUILD.

Sums up what gcov says of every object that left counts, tests' own code aside.
A process that was killed has left none.
"""

import collections
import json
import os
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))


def counted(build):
    for folder, _, names in os.walk(build):
        for name in names:
            if name.endswith(".gcda"):
                yield os.path.join(folder, name)


def lines_of(build):
    """{path: {line: count}} of the project's sources; a header's lines are those of all its users."""
    lines = collections.defaultdict(collections.Counter)
    for path in counted(build):
        result = subprocess.run(["gcov", "--json-format", "--stdout", path], cwd=build, check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for document in result.stdout.splitlines():
            for file in json.loads(document)["files"]:
                source = os.path.relpath(os.path.realpath(os.path.join(build, file["file"])), ROOT)
                if source.startswith(("..", "tests", "build")):
                    continue
                for line in file["lines"]:
                    lines[source][line["line_number"]] += line["count"]
    return lines


def main(arguments):
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    lines = lines_of(os.path.abspath(arguments[0]))
    if not lines:
        print(f"nothing has run in {arguments[0]}", file=sys.stderr)
        return 1
    totals = collections.defaultdict(lambda: [0, 0])
    for source, counts in lines.items():
        folder = os.path.dirname(source)
        if len(arguments) == 1:
            key = folder
        elif folder == arguments[1]:
            key = source
        else:
            continue
        totals[key][0] += sum(count > 0 for count in counts.values())
        totals[key][1] += len(counts)
    for key, (covered, total) in sorted(totals.items()):
        print(f"{key:<32} {covered:>6} of {total:>6} lines  {100 * covered / total:5.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
