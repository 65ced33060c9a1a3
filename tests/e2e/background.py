#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""nbdkit as it is mostly run: in the background, which changes its directory, with
paths that were relative to the old one, and around a command."""

import os

import nbd
import stack as e2e

GRANULE = 65536
SIZE = 16 * GRANULE


def process_is_gone(pid):
    try:
        os.kill(pid, 0)
        return False
    except ProcessLookupError:
        return True


def read_pid(stack):
    try:
        with open(stack.path("pid"), encoding="utf-8") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        return None


def test_background(stack):
    env = stack.nbdkit_env() | {"BITMAPD_SOCKET": "bitmapd.sock"}
    e2e.run(
        "nbdkit", "--pidfile", stack.path("pid"), "--unix", stack.path("nbdkit.sock"),
        os.environ["BITMAPD_PLUGIN"], "raw", "drive=vm1", cwd=stack.directory, env=env)
    # Written by the process in the background when it takes connections.
    e2e.wait_until(lambda: read_pid(stack) is not None, "nbdkit listens")
    pid = read_pid(stack)
    try:
        with nbd.Client(stack.path("nbdkit.sock")) as client:
            client.write(GRANULE, b"a" * 512)
            stack.restart_daemon()
            client.write(3 * GRANULE, b"b" * 512)
            client.flush()
    finally:
        os.kill(pid, 15)
        e2e.wait_until(lambda: process_is_gone(pid), "nbdkit ends")
    assert stack.dirty_ranges("vm1/b") == [(GRANULE, GRANULE), (3 * GRANULE, GRANULE)]


def test_around_a_command(stack):
    env = stack.nbdkit_env()
    e2e.run(
        "nbdkit", "--unix", "-", os.environ["BITMAPD_PLUGIN"], "raw", "drive=vm1",
        "socket=bitmapd.sock", "--run", 'env -u LD_PRELOAD nbdcopy --flush source "$uri"',
        cwd=stack.directory, env=env)
    e2e.run("cmp", stack.path("source"), stack.path("raw"))
    assert stack.dirty_ranges("vm1/b") == [(0, SIZE)]


def main():
    e2e.need_tools("nbdkit", "nbdcopy")
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        with open(stack.path("source"), "wb") as file:
            file.write(os.urandom(SIZE))
        stack.start_daemon()
        stack.add_drive("vm1", raw)
        for test in (test_background, test_around_a_command):
            stack.ctl("bitmap", "clear", "vm1/b", "--all")
            test(stack)
            drive = stack.ctl_json("drive", "show", "vm1")
            assert drive["writers"] == 0 and drive["lost_writers"] == 0, drive
            assert drive["unsettled"] == 0, drive


if __name__ == "__main__":
    main()
