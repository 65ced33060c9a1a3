# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages are well-formed and carry the licence."""

import os
import re
import shutil
import subprocess

from style import Missing

SPDX = '.\\" SPDX-License-Identifier: LGPL-2.1-or-later'


def check(tree):
    pages = [path for path in tree.paths if re.search(r"/[^/]+\.[1-8]$", path)]
    if pages and not shutil.which("mandoc"):
        raise Missing("no mandoc")
    problems = []
    for page in pages:
        if tree.read(page).splitlines()[:1] != [SPDX]:
            problems.append(f"{page}:1: does not begin with {SPDX}")
        # Below "warning" mandoc also looks for the pages that a page refers to on this very host.
        result = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], text=True,
                                cwd=tree.root, check=False, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)
        problems += [re.sub(r"^mandoc: ", "", line) for line in result.stdout.splitlines()]
        if result.returncode != 0 and not result.stdout:
            problems.append(f"{os.path.basename(page)}: mandoc ended with {result.returncode}")
    return problems
