#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installs the build into a scratch DESTDIR and judges what is there.

Every file is expected by name, so that one that is forgotten or left over shows; systemd reads the
units with the installed programs in their Exec…= lines; and a program is built, linked and run against
the installed library with nothing but what pkg-config says.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

PROGRAM = r"""
#include <bitmapd.h>
#include <bitmapd-transaction.h>
#include <stdio.h>
int main(void)
{
    bitmapd *handle = bitmapd_new();
    int r = bitmapd_connect(handle, "/nonexistent/socket");
    printf("%s\n", r < 0 ? bitmapd_error(handle) : "connected");
    bitmapd_close(handle);
    return 0;
}
"""


UNITS = ("bitmapd.service", "bitmapd.socket", "bitmapd@.service", "bitmapd@.socket")


def expected(o):
    soname = "libbitmapd.so.0"
    return {
        f"{o.bindir}/bitmapctl",
        f"{o.bindir}/bitmapd",
        f"{o.libdir}/libbitmapd.so",
        f"{o.libdir}/{soname}",
        f"{o.libdir}/libbitmapd.so.{o.version}",
        f"{o.libdir}/pkgconfig/bitmapd.pc",
        f"{o.includedir}/bitmapd.h",
        f"{o.includedir}/bitmapd-transaction.h",
        f"{o.plugindir}/nbdkit-bitmapd-plugin.so",
        f"{o.mandir}/man1/bitmapctl.1",
        f"{o.mandir}/man1/nbdkit-bitmapd-plugin.1",
        f"{o.mandir}/man5/bitmapd.yaml.5",
        f"{o.mandir}/man8/bitmapd.8",
        f"{o.docdir}/examples/bitmapd.yaml",
        *(f"{o.prefix}/lib/systemd/system/{unit}" for unit in UNITS),
        f"{o.prefix}/lib/sysusers.d/bitmapd.conf",
    }


def installed(root):
    found = set()
    for folder, _, names in os.walk(root):
        found |= {"/" + os.path.relpath(os.path.join(folder, name), root) for name in names}
    return found


def check_files(o, root):
    want, have = expected(o), installed(root)
    return ([f"{path}: not installed" for path in sorted(want - have)]
            + [f"{path}: installed, but nobody expects it" for path in sorted(have - want)])


def check_units(o, root):
    """The units as installed, except that the daemon is found in the scratch directory."""
    if not shutil.which("systemd-analyze"):
        return None
    problems = []
    with tempfile.TemporaryDirectory(prefix="bitmapd-test-units-") as folder:
        units = []
        for name in UNITS:
            with open(f"{root}{o.prefix}/lib/systemd/system/{name}", encoding="utf-8") as file:
                text = file.read()
            if re.search(r"@\w+@", text):
                problems.append(f"{name}: a variable was not replaced")
            text = re.sub(rf"^(Exec\w+=\+?)({o.bindir}/bitmap)", rf"\g<1>{root}\g<2>", text,
                          flags=re.M)
            units.append(os.path.join(folder, name))
            with open(units[-1], "w", encoding="utf-8") as file:
                file.write(text)
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], text=True,
                                check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        # verify also tells of other units on the host; ours are what counts.
        words = [line for line in result.stdout.splitlines() if "bitmapd" in line]
        if result.returncode != 0 or words:
            problems += words or [f"systemd-analyze verify: {result.stdout}"]
    return problems


def check_library(o, root):
    """A program of somebody else's, as they would build it."""
    environment = dict(os.environ, PKG_CONFIG_SYSROOT_DIR=root,
                       PKG_CONFIG_LIBDIR=f"{root}{o.libdir}/pkgconfig",
                       LD_LIBRARY_PATH=f"{root}{o.libdir}")
    # Sanitizers of our own build would have to be the program's too.
    environment.pop("CFLAGS", None)
    with tempfile.TemporaryDirectory(prefix="bitmapd-test-program-") as folder:
        source, program = os.path.join(folder, "program.c"), os.path.join(folder, "program")
        with open(source, "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        try:
            flags = subprocess.run(["pkg-config", "--cflags", "--libs", "bitmapd"], check=True,
                                   text=True, env=environment, stdout=subprocess.PIPE).stdout
            subprocess.run(["cc", "-Wall", "-Werror", "-o", program, source, *flags.split()],
                           check=True, env=environment)
            words = subprocess.run([program], check=True, text=True, env=environment,
                                   stdout=subprocess.PIPE).stdout
        except subprocess.CalledProcessError as failure:
            return [f"a program with the library: {failure}"]
    if "/nonexistent/socket" not in words or "No such file" not in words:
        return [f"a program with the library printed {words!r}"]
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("cmake", "build", "version", "prefix", "bindir", "libdir",
                 "includedir", "mandir", "docdir", "plugindir"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="bitmapd-test-install-") as root:
        subprocess.run([options.cmake, "--install", options.build], check=True,
                       env=dict(os.environ, DESTDIR=root), stdout=subprocess.DEVNULL)
        problems = check_files(options, root)
        if not problems:
            problems += check_library(options, root)
            units = check_units(options, root)
            if units is None and not problems:
                print("skipped: no systemd-analyze here; the units were not verified")
                return 77
            problems += units or []
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
