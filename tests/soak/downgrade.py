#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back to an older daemon and forth again: after a clean stop each goes on with what the other left,
and after a kill the older one refuses a journal that it does not know, and writes nothing.

The older one is built from this repository's history: the last that wrote segments of version 1.
"""

import os
import random
import subprocess
import sys

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e")]

import stack as e2e  # noqa: E402

OLDER = "ed15776da5e2ada164d94dce1fc4cc76583d6d35"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SIZE = 1 << 40
GRANULE = 65536
DRIVES = (("durable", "power-loss"), ("fast", "process-crash"))
NOT_UNDERSTOOD = 65


def build_older(directory):
    """Its programs; none where the clone has no history."""
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]
    found = subprocess.run([*git, "cat-file", "-e", f"{OLDER}^{{commit}}"], check=False,
                           stderr=subprocess.DEVNULL).returncode
    if found != 0:
        e2e.skip(f"no commit {OLDER} here")
    os.mkdir(directory)
    archive = subprocess.run([*git, "archive", OLDER], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", directory], input=archive, check=True)
    build = os.path.join(directory, "build")
    for command in (["cmake", "-S", directory, "-B", build, "--log-level=WARNING",
                     "-DBITMAPD_WERROR=OFF", "-DBUILD_TESTING=OFF",
                     "-DCMAKE_BUILD_TYPE=RelWithDebInfo"],
                    ["cmake", "--build", build, "-j", str(os.cpu_count()),
                     "--target", "bitmapd", "bitmapctl"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"BITMAPD": f"{build}/daemon/app/bitmapd", "BITMAPCTL": f"{build}/client/ctl/bitmapctl"}


class Life:
    """Of a container, under one daemon after the other."""

    def __init__(self, stack, chance):
        self.stack = stack
        self.chance = chance
        self.daemons = 0

    def state(self):
        """All that is answered."""
        found = {}
        for drive, _ in DRIVES:
            for bitmap in self.stack.ctl_json("bitmap", "list", drive)["bitmaps"]:
                name = f"{drive}/{bitmap['name'].split('/')[-1]}"
                found[name] = (bitmap["validity"], bitmap["recording"], bitmap["granularity"],
                               self.stack.dirty_ranges(name))
            for checkpoint in self.stack.ctl_json("checkpoint", "list", drive)["checkpoints"]:
                since = self.stack.ctl_json("map", drive, "--since", checkpoint["name"])
                found[f"{drive} since {checkpoint['name']}"] = (checkpoint["uuid"], since)
        return found

    def add(self):
        for drive, durability in DRIVES:
            self.stack.ctl("drive", "add", drive, "--size", str(SIZE), "--durability", durability)
            self.stack.ctl("bitmap", "create", f"{drive}/b")
            self.stack.ctl("bitmap", "create", f"{drive}/fine", "--granularity", "4K")
            self.stack.ctl("bitmap", "create", f"{drive}/off", "--disabled")

    def work(self):
        self.daemons += 1
        for drive, _ in DRIVES:
            for part in range(3):
                lines = "".join(f"{self.chance.randrange(SIZE // GRANULE) * GRANULE} 512\n"
                                for _ in range(2000))
                self.stack.ctl("mark", drive, "--stdin", input=lines)
                self.stack.ctl("checkpoint", "create", f"c{self.daemons}-{part}", drive)
            self.stack.ctl("bitmap", "set", f"{drive}/off", "0", "1G")
            self.stack.ctl("bitmap", "clear", f"{drive}/b", "0", "256G")
        return self.state()

    def goes_on_as(self, programs, expected):
        os.environ.update(programs)
        self.stack.start_daemon()
        found = self.state()
        differ = [name for name in found.keys() | expected
                  if found.get(name) != expected.get(name)]
        assert not differ, differ
        assert all(found[f"{drive}/b"][3] for drive, _ in DRIVES), "nothing to compare"


def contents(stack):
    """Of the files that a daemon which refuses must not touch."""
    found = {}
    for name in ("bitmaps.qcow2", "journal.0", "journal.1"):
        with open(stack.path(name), "rb") as file:
            found[name] = file.read()
    return found


def main():
    e2e.need_tools("git", "cmake", "tar")
    chance = random.Random(e2e.seed())
    newer = {name: os.environ[name] for name in ("BITMAPD", "BITMAPCTL")}
    with e2e.Stack() as stack:
        older = build_older(stack.path("older"))
        life = Life(stack, chance)
        stack.start_daemon()
        life.add()
        for _ in range(3):
            for programs in (older, newer):
                expected = life.work()
                stack.daemon_stops()
                life.goes_on_as(programs, expected)
        # After a kill the journal is needed, and is none that the older one knows.
        expected = life.work()
        stack.daemon_dies()
        before = contents(stack)
        refused = stack.start("older", [older["BITMAPD"], "--state-dir", stack.directory])
        assert refused.wait() == NOT_UNDERSTOOD, refused.text()
        assert "version: found 3, expected at most 1" in refused.text(), refused.text()
        assert contents(stack) == before
        life.goes_on_as(newer, expected)
        stack.daemon_stops()
        life.goes_on_as(older, expected)
    print(f"{life.daemons} daemons, {len(expected)} maps")


if __name__ == "__main__":
    main()
