#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""options.py BITMAPD PAGE: the daemon's --help and its manual page have the same options."""

import re
import subprocess
import sys


def main(program, page):
    words = subprocess.run([program, "--help"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    with open(page, encoding="utf-8") as file:
        text = file.read()
    helped = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", words))
    described = set(re.findall(r"^\.It Fl -([a-z-]+)", text, re.M))
    for option in sorted(helped ^ described):
        print(f"--{option} is only in {'--help' if option in helped else page}")
    # Neither may be empty, or nothing was compared.
    return 0 if helped and helped == described else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
