#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""deb.py FOLDER SYMBOLS: judges the Debian packages in a folder.

lintian has nothing to say; every symbol of the library is in its symbols file; and a program is
built, linked and run against what the packages of the library hold, with what pkg-config says.
"""

import argparse
import glob
import os
import shutil
import subprocess
import sys
import tempfile

from install import check_library


def output(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def skip(words):
    if os.environ.get("CI"):
        print(f"{words}, and CI has to have it")
        sys.exit(1)
    print(f"skipped: {words}")
    sys.exit(77)


def check_lint(changes):
    result = subprocess.run(
        ["lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning",
         "--display-level", ">=warning", changes], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return [f"lintian: {result.stdout}"] if result.returncode != 0 else []


def check_symbols(library, path):
    found = {line.split()[-1].replace("@@", "@").split("@")[0]
             for line in output("nm", "-D", "--defined-only", library).splitlines()}
    with open(path, encoding="utf-8") as file:
        listed = {line.split("@")[0].strip() for line in file if line.startswith(" ")}
    return [f"{name}: only in {'the library' if name in found else path}"
            for name in sorted(found ^ listed)]


def main(folder, symbols):
    for tool in ("lintian", "dpkg-buildpackage", "dpkg-deb"):
        if not shutil.which(tool):
            skip(f"no {tool}")
    changes = glob.glob(f"{folder}/*.changes")
    if len(changes) != 1:
        print(f"{folder}: found {len(changes)} sets of packages, expected one")
        return 1
    problems = check_lint(changes[0])
    libdir = "/usr/lib/" + output("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
    with tempfile.TemporaryDirectory(prefix="bitmapd-test-deb-") as root:
        for name in ("libbitmapd0_", "libbitmapd-dev_"):
            package, = glob.glob(f"{folder}/{name}*.deb")
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        problems += check_library(argparse.Namespace(libdir=libdir), root)
        problems += check_symbols(f"{root}{libdir}/libbitmapd.so.0", symbols)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
