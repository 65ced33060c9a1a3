# SPDX-License-Identifier: LGPL-2.1-or-later
"""`container check --repair` and `container compact` on images that have a disk of real QEMU's:
whatever they do for the bitmaps, the disk, its snapshots and its refcounts stay what they are, and
where the disk itself is damaged they say who can repair it."""

import os
import shutil
import signal
import struct
import sys
import unittest

from internal import TOOLS, Scratch, qemu
from online import Daemon
from program import run

MIB = 1 << 20


class Offline(Scratch):
    def setUp(self):
        super().setUp()
        self.daemon = Daemon(self.directory)
        self.addCleanup(self.daemon.close)
        self.path = self.daemon.container

    def ctl(self, *words, code=0):
        result = run(*words, socket=self.daemon.socket)
        self.assertEqual(result.code, code, (words, result))
        return result

    def offline(self, *words, code=0):
        result = run("container", *words, self.path, "-o", "json")
        self.assertEqual((result.code, result.err), (code, ""), (words, result))
        return result.json()

    def each(self, test):
        """For each kind of image: makes it, with a disk worth keeping, and bitmaps in it."""
        base = self.name("base.qcow2")
        self.create(path=base)
        self.io("write -P 77 0 1M", path=base)
        plain = ("write -P 1 0 300k", "write -P 2 3M 300k", "write -z 1M 64k")
        packed = [f"write -c -P {k + 1} {4096 + 8 * k}k 8k" for k in range(32)]
        for kind, options, commands, snapshots in (
            ("plain", ["-o lazy_refcounts=on"], plain, False),
            ("small clusters", ["-o cluster_size=512,refcount_bits=8"], plain, True),
            ("compressed", ["-o cluster_size=8K"], (*plain, *packed), True),
            ("backing file", ["-o cluster_size=4K", "-b base.qcow2 -F qcow2"], plain, True),
        ):
            with self.subTest(kind=kind):
                self.create(*options)
                self.io(*commands)
                if snapshots:
                    self.snapshot("one")
                    self.io("write -P 3 50k 100k", "discard 3M 64k")
                    self.snapshot("two")
                    self.io("write -P 4 100k 100k", "write -P 5 6M 100k")
                self.leaks = self.qemu_check(self.path)
                self.prepare()
                self.fill()
                test()

    def fill(self):
        """Bitmaps with bits, and room that others have left; the daemon has stopped."""
        for name in os.listdir(self.directory):
            if name.startswith("journal.") or name.startswith("catalog."):
                os.unlink(self.name(name))
        self.daemon.start()
        self.ctl("drive", "add", "d", "--size", "1G")
        for name in ("x", "a", "y", "b"):
            self.ctl("bitmap", "create", f"d/{name}", "--granularity", "4K")
            self.ctl("bitmap", "set", f"d/{name}", "0", "300M")
            self.ctl("flush")
        for name in ("x", "y"):
            self.ctl("bitmap", "delete", f"d/{name}")
        self.ctl("mark", "d", "512M", "1M")
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)

    def bitmaps(self):
        """{name: dirty bytes, or None when it is unknown}, by a daemon's word."""
        self.daemon.start()
        found = {}
        for bitmap in self.ctl("bitmap", "list", "-o", "json").json()["bitmaps"]:
            unknown = bitmap["validity"] == "unknown"
            found[bitmap["name"]] = None if unknown else bitmap["dirty_bytes"]
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        return found

    def is_sound(self, before):
        """To us; to QEMU, who finds leaks only, which are our clusters; and the disk is @before's."""
        self.assertEqual(self.offline("check")["findings"], [])
        self.assertGreater(self.qemu_check(self.path), self.leaks)
        self.same_disk(before)

    def l1_table(self):
        """Of the first bitmap in the table."""
        return self.field(self.field(108))

    def test_compact(self):
        def test():
            before, size = self.copy("before.qcow2"), os.path.getsize(self.path)
            for _ in range(2):
                self.offline("compact")
                self.is_sound(before)
            self.assertLessEqual(os.path.getsize(self.path), size)
            self.assertEqual(self.bitmaps(), {"a": 301 * MIB, "b": 301 * MIB})
            # QEMU goes on with it.
            self.io("write -P 9 7M 64k")
            self.qemu_check(self.path)

        self.each(test)

    def test_repair_of_ours(self):
        def test():
            before = self.copy("before.qcow2")
            self.patch(self.l1_table(), b"\0" * 6 + b"\xff\xff")
            told = self.offline("check", "--repair")
            self.assertEqual((told["losses"], told["corruptions"], told["leaks"]), (1, 0, 0))
            self.is_sound(before)
            self.offline("compact")
            self.is_sound(before)
            found = self.bitmaps()
            self.assertEqual(sorted(found), ["a", "b"])
            self.assertEqual(sorted(map(str, found.values())), [str(301 * MIB), "None"])

        self.each(test)

    def test_repair_after_qemu(self):
        """QEMU frees our clusters; the disk has some of them since."""

        def test():
            qemu("qemu-img", "check", "-q", "-r", "leaks", self.path, code=None)
            self.io("write -P 6 7M 900k")
            before = self.copy("before.qcow2")
            self.offline("check", code=2)
            told = self.offline("check", "--repair")
            self.assertEqual((told["corruptions"], told["leaks"]), (0, 0))
            self.assertGreater(told["losses"], 0)
            self.is_sound(before)
            self.offline("compact")
            self.is_sound(before)
            self.assertEqual({value for value in self.bitmaps().values()} - {None}, set())

        self.each(test)

    def is_left_to_qemu(self, word):
        before = self.bytes()
        for words in (("check", "--repair"), ("compact",)):
            result = run("container", *words, self.path)
            self.assertEqual(result.code, 1, result)
            self.assertIn(word, result.out + result.err)
            self.assertEqual(self.bytes(), before)
        self.assertIn("qemu-img check -r all", run("container", "check", "--repair", self.path).err)
        qemu("qemu-img", "check", "-q", "-r", "all", self.path, code=None)
        repaired = self.copy("before.qcow2")
        self.assertEqual(run("container", "info", self.path).code, 0)
        told = self.offline("check", "--repair")
        self.assertEqual((told["corruptions"], told["leaks"]), (0, 0))
        self.is_sound(repaired)

    def test_a_damaged_disk(self):
        """It is QEMU's to repair, and then ours."""
        self.create()
        self.io("write -P 1 0 300k")
        self.leaks = self.qemu_check(self.path)
        self.prepare()
        self.fill()
        l2 = self.field(self.field(40)) & 0x00FFFFFFFFFFFE00
        self.patch(l2 + 8, struct.pack(">Q", l2 + 512 + 1))
        self.is_left_to_qemu("L2 entry")

    def test_damaged_refcounts(self):
        """They are not made from nothing, for who counts the disk?"""

        def test():
            self.patch(self.field(48), struct.pack(">Q", 1 << 45 | 1))
            self.is_left_to_qemu("refcount table entry")

        self.each(test)

    def test_refcounts_of_the_disk(self):
        """One that is too low is told, and left."""
        self.create()
        self.io("write -P 1 0 300k")
        self.snapshot("one")
        self.leaks = self.qemu_check(self.path)
        self.prepare()
        self.fill()
        l2 = self.field(self.field(40)) & 0x00FFFFFFFFFFFE00
        data = self.field(l2) & 0x00FFFFFFFFFFFE00
        counter = self.field(self.field(48)) + 2 * (data >> 16)
        self.assertEqual(self.field(counter, ">H"), 2)
        self.patch(counter, struct.pack(">H", 1))
        told = self.offline("check", "--repair", code=2)
        self.assertIn("the image's disk's: for 'qemu-img check -r'", told["findings"][0]["text"])
        self.assertEqual((self.field(counter, ">H"), told["losses"]), (1, 0))
        qemu("qemu-img", "check", "-q", "-r", "all", self.path, code=None)
        self.assertEqual(self.field(counter, ">H"), 2)

    def test_not_prepared(self):
        self.create()
        self.io("write -P 1 0 300k")
        before = self.bytes()
        for words in (("check", "--repair"), ("compact",)):
            result = run("container", *words, self.path)
            self.assertEqual(result.code, 1, result)
            self.assertIn("create --internal", result.err)
            self.assertEqual(self.bytes(), before)


if __name__ == "__main__":
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"not installed: {' '.join(missing)}: skipped")
        sys.exit(77)
    unittest.main()
