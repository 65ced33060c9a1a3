#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""lint.py includes|manual|sources|style ROOT BUILD: prints what is wrong; 0 clean, 1 not, 77 not checked."""

import os
import sys

import includes
import manual
import sources
import style
from tree import Tree

CHECKS = {
    "includes": includes.check,
    "manual": manual.check,
    "sources": sources.check,
    "style": style.check,
}


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in CHECKS or not os.path.isdir(arguments[1]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        problems = CHECKS[arguments[0]](Tree.find(*arguments[1:]))
    except style.Missing as missing:
        print(f"skipped: {missing}")
        return 77
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
