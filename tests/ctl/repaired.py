# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon makes of a container that was repaired or compacted while it was stopped."""

import json
import os
import signal
import struct
import tempfile
import unittest

from online import Daemon
from program import run


class Repaired(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.daemon = Daemon(scratch.name)
        self.addCleanup(self.daemon.close)
        self.daemon.start()
        self.run_ok("drive", "add", "d", "--size", "1G")
        for name in ("a", "b"):
            self.run_ok("bitmap", "create", f"d/{name}")
        self.run_ok("mark", "d", "0", "1M")
        self.run_ok("flush")
        self.run_ok("mark", "d", "512M", "64K")  # the journal has it, the container not

    def run_ok(self, *words, code=0):
        result = run(*words, socket=self.daemon.socket)
        self.assertEqual(result.code, code, (words, result))
        return result

    def offline(self, *words, code=0):
        result = run("container", *words, self.daemon.container, "-o", "json")
        self.assertEqual((result.code, result.err), (code, ""), (words, result))
        return result.json()

    def bitmap(self, name):
        return self.run_ok("bitmap", "show", f"d/{name}", "-o", "json").json()

    def patch(self, offset, data):
        with open(self.daemon.container, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def header(self):
        """Offsets: refcount table, bitmap table, state blob."""
        with open(self.daemon.container, "rb") as file:
            data = file.read(512)
        return tuple(struct.unpack_from(">Q", data, at)[0] for at in (48, 108, 128))

    def l1_table(self, index):
        with open(self.daemon.container, "rb") as file:
            file.seek(self.header()[1] + 32 * index)  # entries of one short name each
            return struct.unpack(">Q", file.read(8))[0]

    def test_the_journal_still_fits(self):
        """Killed, its refcounts destroyed, repaired: no mark is missing, and none is doubted."""
        self.daemon.end(signal.SIGKILL)
        self.patch(self.header()[0], os.urandom(4096))
        self.offline("check", code=2)
        self.assertEqual(self.offline("check", "--repair")["losses"], 0)
        self.offline("compact")
        self.offline("check")
        self.daemon.start()
        for name in ("a", "b"):
            found = self.bitmap(name)
            self.assertEqual((found["validity"], found["dirty_bytes"]), ("exact", (1 << 20) + 65536))
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        self.offline("check")

    def test_a_lost_bitmap_is_unknown(self):
        for killed in (True, False):
            with self.subTest(killed=killed):
                self.daemon.end(signal.SIGKILL if killed else signal.SIGTERM)
                self.patch(self.l1_table(0), b"\x00" * 6 + b"\xff\xff")
                told = self.offline("check", "--repair")
                self.assertEqual(told["losses"], 1)
                name = json.dumps(told["findings"]).split("d/")[1][0]
                self.offline("check")
                self.daemon.start()
                lost, kept = self.bitmap(name), self.bitmap("b" if name == "a" else "a")
                self.assertEqual((lost["validity"], kept["validity"]), ("unknown", "exact"))
                self.assertIn("damaged in the container", lost["reason"])
                self.assertEqual(kept["dirty_bytes"], (1 << 20) + 65536)
                self.run_ok("map", f"d/{name}", code=6)
                self.run_ok("bitmap", "clear", f"d/{name}", "--all")
                self.run_ok("bitmap", "set", f"d/{name}", "0", "1M")
                self.run_ok("bitmap", "set", f"d/{name}", "512M", "64K")
                self.run_ok("flush")

    def test_a_lost_state_makes_all_unknown(self):
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        self.patch(self.header()[2], bytes(64))
        self.assertEqual(self.offline("check", "--repair")["losses"], 1)
        self.offline("check")
        self.daemon.start()
        for name in ("a", "b"):
            self.assertEqual(self.bitmap(name)["validity"], "unknown")
        self.assertIn("the state was lost earlier", self.daemon.read_log())
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        # What the repair kept in use, for want of knowledge, is given up now.
        self.offline("check", "--repair")
        self.assertIsNone(self.offline("info")["state_damage"])


if __name__ == "__main__":
    unittest.main()
