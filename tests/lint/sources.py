# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every source file begins with, how long it may be, and words that promise work."""

import re

SPDX = "SPDX-License-Identifier: LGPL-2.1-or-later"
LINES_MAX = 600

ESSAY_WORDS_MIN = 3

# In two pieces, or this file would be its own first finding.
LATER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")

TEXT = (".c", ".h", ".py", ".sh", ".in", ".md", ".txt", ".json", ".yaml", "Makefile")


def check_c(path, lines):
    if not lines or lines[0] != f"/* {SPDX} */":
        return [f"{path}:1: does not begin with /* {SPDX} */"]
    essay = re.match(r"/\*(.*?)\*/", "\n".join(lines[1:]), re.S)
    if path.endswith(".c") and (not essay
                                or len(re.findall(r"\w+", essay.group(1))) < ESSAY_WORDS_MIN):
        return [f"{path}:2: a .c file opens with what it is and why"]
    return []


def check_script(path, lines):
    head = lines[:2] if lines and lines[0].startswith("#!") else lines[:1]
    if not head or head[-1] != f"# {SPDX}":
        return [f"{path}:{max(len(head), 1)}: does not begin with # {SPDX}"]
    return []


def check_file(path, text):
    lines = text.splitlines()
    problems = []
    if path.endswith((".c", ".h")):
        problems += check_c(path, lines)
        if len(lines) > LINES_MAX:
            problems.append(f"{path}: {len(lines)} lines, more than {LINES_MAX}: two topics?")
    elif path.endswith((".py", ".sh")) or text.startswith("#!"):
        problems += check_script(path, lines)
    for number, line in enumerate(lines, 1):
        match = LATER.search(line)
        if match:
            problems.append(f"{path}:{number}: {match.group(1)}: do it or let it be")
    return problems


def check(tree):
    problems = []
    for path in tree.paths:
        text = tree.read(path)
        if path.endswith(TEXT) or text.startswith("#!"):
            problems += check_file(path, text)
    return problems
