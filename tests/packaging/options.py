#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""options.py BITMAPD PAGE LOG: the daemon's --help and its manual page have the same options, and
the page and the log's source the same events."""

import re
import subprocess
import sys


def compare(name, here, there, what):
    for item in sorted(here ^ there):
        print(f"{item} is only in {what if item in here else name}")
    # Neither may be empty, or nothing was compared.
    return bool(here) and here == there


def main(program, page, log):
    words = subprocess.run([program, "--help"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    with open(page, encoding="utf-8") as file:
        text = file.read()
    with open(log, encoding="utf-8") as file:
        source = file.read()
    options = compare(page, set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", words)),
                      set(re.findall(r"^\.It Fl -([a-z-]+)", text, re.M)), "--help")
    events = compare(page, set(re.findall(r'\{"(\w+)", "([0-9a-f]{32})"\}', source)),
                     set(re.findall(r"^\.It Li (\w+) Ta Li ([0-9a-f]{32}) ", text, re.M)), log)
    return 0 if options and events else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
