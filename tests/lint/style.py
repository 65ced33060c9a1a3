# SPDX-License-Identifier: LGPL-2.1-or-later
"""clang-format has nothing to change."""

import os
import re
import shutil
import subprocess

# Versions differ in what they make of one .clang-format; this one is Debian 12's.
VERSION = 14


class Missing(Exception):
    """The tool is not there: nothing was checked."""


def tool():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        path = shutil.which(name)
        if path:
            words = subprocess.run([path, "--version"], check=True, text=True,
                                   stdout=subprocess.PIPE).stdout
            if re.search(rf"version {VERSION}\.", words):
                return path
    raise Missing(f"no clang-format of version {VERSION}")


def check(tree):
    paths = tree.with_suffix(".c", ".h")
    if not paths:
        return []
    result = subprocess.run([tool(), "--dry-run", "--Werror", "--style=file", *paths],
                            cwd=tree.root, text=True, check=False,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    bad = sorted(set(re.findall(r"^(\S+?):\d+:\d+: (?:error|warning):", result.stderr, re.M)))
    if result.returncode != 0 and not bad:
        return [f"clang-format: {result.stderr.strip()}"]
    return [f"{os.path.normpath(path)}: clang-format -i would change it" for path in bad]
