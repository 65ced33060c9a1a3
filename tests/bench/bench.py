#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measures bitmapd beside its peers: see HACKING.md.  The last line is the path of the rows as
JSON.

    bench.py [--quick] [--json FILE] BUILD [ROW-PREFIX …]
"""

import argparse
import json
import os
import sys

import first_touch
import harness
import rows_maps
import rows_marks
import rows_memory
import rows_scale
import rows_storage


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="every row, but briefly")
    parser.add_argument("--json", help="where the rows go; default: bench.json in the build")
    parser.add_argument("build", help="a release build")
    parser.add_argument("only", nargs="*", help="rows whose id begins like this")
    arguments = parser.parse_args()

    with harness.Bench(arguments.build, arguments.quick, arguments.only) as bench:
        for rows in (rows_marks, rows_storage, rows_maps, rows_scale, rows_memory, first_touch):
            rows.run(bench)
        path = os.path.abspath(arguments.json or os.path.join(bench.build, "bench.json"))
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "rows": bench.rows}, file, indent=1)
            file.write("\n")
        missed = [row["id"] for row in bench.rows
                  if "aim" in row and row["ratio"]["median"] < row["aim"]]
        aims = sum("aim" in row for row in bench.rows)
        print(f"\n{len(bench.rows)} rows; {aims - len(missed)} of {aims} aims reached")
        print(path)


if __name__ == "__main__":
    sys.exit(main())
