# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every online verb against a real daemon: what it prints, what it changes, how it exits."""

import os
import signal
import subprocess
import tempfile
import time
import unittest

from program import COMMAND_TIMEOUT_S, accepts, run, spawn

BITMAPD = os.environ["BITMAPD"]
K, M, G = 1 << 10, 1 << 20, 1 << 30


class Daemon:
    def __init__(self, directory):
        self.directory = directory
        self.socket = os.path.join(directory, "bitmapd.sock")
        self.container = os.path.join(directory, "bitmaps.qcow2")
        self.log = open(os.path.join(directory, "log"), "ab")
        self.process = None

    def start(self):
        self.process = spawn(
            [BITMAPD, "--state-dir", self.directory], stderr=self.log, stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while not accepts(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no daemon: {self.read_log()}")
            time.sleep(0.01)

    def end(self, number):
        """Sends the signal, returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(COMMAND_TIMEOUT_S)
        self.process = None
        return code

    def read_log(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Online(unittest.TestCase):
    """Each test has a daemon of its own: they change it."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.daemon = Daemon(scratch.name)
        self.addCleanup(self.daemon.close)
        self.daemon.start()

    def run_ok(self, *words, code=0, **more):
        result = run(*words, socket=self.daemon.socket, **more)
        self.assertEqual(result.code, code, (words, result))
        if code == 0:
            self.assertEqual(result.err, "", words)
        return result

    def json(self, *words, code=0, **more):
        value = self.run_ok(*words, "-o", "json", code=code, **more).json()
        if isinstance(value, dict):
            self.assertEqual(value["schema_version"], 1)
        return value

    def silent(self, *words):
        """A change that has nothing to say."""
        self.assertEqual(self.run_ok(*words).out, "")

    def fails(self, code, *words, **more):
        result = run(*words, socket=self.daemon.socket, **more)
        self.assertEqual((result.code, result.out), (code, ""), (words, result))
        self.assertRegex(result.err, r"\Abitmapctl: [^\n]+\n\Z")
        return result

    def dirty(self, bitmap, code=0):
        """The dirty extents, after a look at the whole map in all its shapes."""
        array = self.json("map", bitmap, code=code)
        size = self.json("bitmap", "show", bitmap)["size"]
        at = 0
        for extent in array:
            self.assertEqual(list(extent), ["offset", "length", "type", "description"])
            self.assertEqual(extent["offset"], at)
            self.assertEqual(extent["description"], ("clean", "dirty")[extent["type"]])
            at += extent["length"]
        self.assertEqual(at, size)
        types = [extent["type"] for extent in array]
        self.assertTrue(all(a != b for a, b in zip(types, types[1:])))
        found = [(e["offset"], e["length"]) for e in array if e["type"]]

        head, *runs, end = self.run_ok("map", bitmap, "-o", "ndjson", code=code).lines()
        self.assertEqual((head["schema_version"], head["size"]), (1, size))
        self.assertEqual([(r["byte_offset"], r["size_bytes"]) for r in runs], found)
        self.assertEqual((end["complete"], end["tuples"]), (True, len(found)))
        human = self.run_ok("map", bitmap, code=code).out.splitlines()
        self.assertEqual(
            [(int(a), int(b)) for a, b, kind in map(str.split, human) if kind == "dirty"], found
        )
        return found


class Drives(Online):
    def test_add_show_list(self):
        path = os.path.join(self.daemon.directory, "disk.raw")
        with open(path, "wb") as file:
            file.truncate(100000)
        result = self.run_ok("drive", "add", "vg0/größe", "--size", "10G")
        self.assertEqual(result.out.count("\n"), 1)
        self.assertIn("vg0/größe", result.out)
        added = self.json(
            "drive", "add", "d", "--path", "disk.raw", "--durability", "process-crash",
            "--granularity", "4K", cwd=self.daemon.directory,
        )  # fmt: skip
        expected = {
            "name": "d", "path": os.path.realpath(path), "size": 100000, "granularity": 4096,
            "durability": "process-crash", "bitmaps": 0, "recording": 0, "writers": 0,
            "lost_writers": 0, "unsettled": 0,
        }  # fmt: skip
        self.assertEqual({**added, **expected, "path": os.path.realpath(added["path"])}, {**added, **expected})
        self.assertEqual(self.json("drive", "show", "d"), added)
        drives = self.json("drive", "list")["drives"]
        self.assertEqual({drive["name"] for drive in drives}, {"d", "vg0/größe"})
        lines = self.run_ok("drive", "list", "-o", "ndjson").lines()
        self.assertEqual(
            [{**line, "schema_version": 0} for line in lines],
            [{**drive, "schema_version": 0} for drive in drives],
        )
        table = self.run_ok("drive", "list").out
        self.assertRegex(table, r"(?m)^vg0/größe +10G +64K +power-loss\b")
        self.assertRegex(table, r"\ANAME +SIZE ")
        self.assertEqual(table.count("\n"), 3)
        self.assertTrue(table.endswith("\n"))
        self.assertIn("size:         100000 (100000)\n", self.run_ok("drive", "show", "d").out)

    def test_refusals(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.fails(5, "drive", "add", "d", "--size", "1M")
        self.fails(1, "drive", "add", "e", "--path", "/nonexistent/disk")
        for words in (["show"], ["remove"], ["set", "--granularity", "4K"], ["rename", "x"],
                      ["resize", "--size", "1"], ["fence"]):  # fmt: skip
            result = self.fails(4, "drive", words[0], "none", *words[1:])
            self.assertIn("none", result.err)
        self.assertEqual(len(self.json("drive", "list")["drives"]), 1)

    def test_empty_list(self):
        self.assertEqual(self.json("drive", "list"), {"schema_version": 1, "drives": []})
        self.assertEqual(self.json("bitmap", "list"), {"schema_version": 1, "bitmaps": []})
        self.assertEqual(self.run_ok("drive", "list", "-o", "ndjson").out, "")
        self.run_ok("drive", "list")

    def test_set(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.silent("drive", "set", "d", "--granularity", "128K")
        shown = self.json("drive", "show", "d")
        self.assertEqual((shown["granularity"], shown["durability"]), (128 * K, "power-loss"))
        self.assertEqual(
            self.json("drive", "set", "d", "--durability", "process-crash"), {"schema_version": 1}
        )
        shown = self.json("drive", "show", "d")
        self.assertEqual((shown["granularity"], shown["durability"]), (128 * K, "process-crash"))
        self.run_ok("bitmap", "create", "d/n")
        self.assertEqual(self.json("bitmap", "show", "d/n")["granularity"], 128 * K)

    def test_rename(self):
        self.run_ok("drive", "add", "a", "--size", "1M")
        self.run_ok("drive", "add", "b", "--size", "1M")
        self.run_ok("bitmap", "create", "a/n")
        self.fails(5, "drive", "rename", "a", "b")
        self.silent("drive", "rename", "a", "vg/c")
        self.fails(4, "drive", "show", "a")
        self.assertEqual(self.json("drive", "show", "vg/c")["bitmaps"], 1)
        shown = self.json("bitmap", "show", "vg/c/n")
        self.assertEqual((shown["drive"], shown["name"]), ("vg/c", "n"))

    def test_resize(self):
        self.run_ok("drive", "add", "d", "--size", "100000")
        self.run_ok("bitmap", "create", "d/n")
        self.silent("drive", "resize", "d", "--size", "300000")
        self.assertEqual(self.json("drive", "show", "d")["size"], 300000)
        self.assertEqual(self.dirty("d/n"), [(65536, 300000 - 65536)])
        self.silent("drive", "resize", "d", "--size", "70000")
        self.assertEqual(self.dirty("d/n"), [(65536, 70000 - 65536)])

    def test_remove(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.fails(5, "drive", "remove", "d")
        self.silent("drive", "remove", "d", "--force")
        self.fails(4, "drive", "show", "d")
        self.fails(4, "bitmap", "show", "d/n")
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.silent("drive", "remove", "d")

    def test_fence(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        # Nobody is lost: there is nobody of that name, or nothing to do.
        self.fails(4, "drive", "fence", "d", "--writer", "vm-1")
        self.silent("drive", "fence", "d")


class Bitmaps(Online):
    def setUp(self):
        super().setUp()
        self.run_ok("drive", "add", "d", "--size", "1M")

    def test_create_show_list(self):
        result = self.run_ok("bitmap", "create", "d/n")
        self.assertEqual(result.out.count("\n"), 1)
        created = self.json("bitmap", "create", "d/ñ", "--granularity", "4K", "--disabled")
        expected = {
            "drive": "d", "name": "ñ", "granularity": 4096, "size": M, "recording": False,
            "validity": "exact", "reason": "", "dirty_bytes": 0, "dirty_count": 0,
        }  # fmt: skip
        self.assertEqual({**created, **expected}, created)
        self.assertEqual(self.json("bitmap", "show", "d/ñ"), created)
        self.run_ok("drive", "add", "e", "--size", "1G")
        self.run_ok("bitmap", "create", "e/n")
        of_all = self.json("bitmap", "list")["bitmaps"]
        self.assertEqual({(b["drive"], b["name"]) for b in of_all}, {("d", "n"), ("d", "ñ"), ("e", "n")})
        of_d = self.json("bitmap", "list", "d")["bitmaps"]
        self.assertEqual({b["name"] for b in of_d}, {"n", "ñ"})
        self.assertEqual(len(self.run_ok("bitmap", "list", "d", "-o", "ndjson").lines()), 2)
        self.assertRegex(self.run_ok("bitmap", "list").out, r"(?m)^d/ñ +4K +no +0 +exact\b")
        self.assertIn("validity:     exact\n", self.run_ok("bitmap", "show", "d/n").out)

    def test_refusals(self):
        self.run_ok("bitmap", "create", "d/n")
        self.fails(5, "bitmap", "create", "d/n")
        self.fails(4, "bitmap", "create", "none/n")
        self.fails(4, "bitmap", "list", "none")
        for verb in ("show", "delete", "enable", "disable"):
            self.fails(4, "bitmap", verb, "d/none")
            self.fails(4, "bitmap", verb, "none/n")
        self.fails(4, "bitmap", "rename", "d/none", "x")
        self.fails(4, "bitmap", "set", "d/none", "0", "1")
        self.fails(4, "bitmap", "clear", "d/none", "0", "1")
        self.fails(4, "bitmap", "clear", "d/none", "--all")
        self.fails(4, "bitmap", "merge", "d/n", "d/none")
        self.fails(4, "bitmap", "merge", "d/none", "d/n")
        self.fails(4, "map", "d/none")
        self.fails(4, "mark", "none", "0", "1")
        for words in (["bitmap", "set", "d/n"], ["bitmap", "clear", "d/n"], ["mark", "d"]):
            # Past the end, by a byte, by far, beyond 64 bits: whole, and nothing changes.
            for offset, length in (("1M", "1"), ("1023K", "1025"), ("0", "2M"), ("16383P", "2P"),
                                   ("18446744073709551615", "1")):  # fmt: skip
                self.fails(1, *words, offset, length)
        self.assertEqual(self.dirty("d/n"), [])

    def test_set_and_clear(self):
        self.run_ok("bitmap", "create", "d/n")
        self.silent("bitmap", "set", "d/n", "65535", "2")
        self.assertEqual(self.dirty("d/n"), [(0, 128 * K)])
        self.silent("bitmap", "clear", "d/n", "1", "65536")
        self.assertEqual(self.dirty("d/n"), [(0, 128 * K)])
        self.silent("bitmap", "clear", "d/n", "0", "64K")
        self.assertEqual(self.dirty("d/n"), [(64 * K, 64 * K)])
        shown = self.json("bitmap", "show", "d/n")
        self.assertEqual((shown["dirty_bytes"], shown["dirty_count"]), (65536, 1))
        self.assertEqual(self.json("bitmap", "set", "d/n", "0", "1"), {"schema_version": 1})
        self.silent("bitmap", "clear", "d/n", "--all")
        self.assertEqual(self.dirty("d/n"), [])

    def test_last_granule(self):
        self.run_ok("drive", "add", "odd", "--size", "100001")
        self.run_ok("bitmap", "create", "odd/n")
        self.silent("bitmap", "set", "odd/n", "100000", "1")
        self.assertEqual(self.dirty("odd/n"), [(65536, 100001 - 65536)])
        shown = self.json("bitmap", "show", "odd/n")
        self.assertEqual((shown["dirty_bytes"], shown["dirty_count"]), (100001 - 65536, 1))
        self.silent("bitmap", "clear", "odd/n", "64K", str(100001 - 65536))
        self.assertEqual(self.dirty("odd/n"), [])

    def test_enable_and_disable(self):
        self.run_ok("bitmap", "create", "d/n")
        self.silent("bitmap", "disable", "d/n")
        self.silent("bitmap", "enable", "d/n")
        self.assertEqual(self.json("bitmap", "show", "d/n")["validity"], "exact")
        # A mark that it misses makes it unknown when it records again.
        self.silent("bitmap", "disable", "d/n")
        self.silent("mark", "d", "0", "1")
        shown = self.json("bitmap", "show", "d/n")
        self.assertEqual((shown["recording"], shown["gap"], shown["validity"]), (False, True, "exact"))
        self.assertEqual(self.dirty("d/n"), [])
        self.silent("bitmap", "enable", "d/n")
        shown = self.json("bitmap", "show", "d/n")
        self.assertEqual((shown["recording"], shown["validity"]), (True, "unknown"))
        self.assertNotEqual(shown["reason"], "")
        self.assertIn(shown["reason"], self.run_ok("bitmap", "show", "d/n").out)
        self.assertEqual(self.dirty("d/n", code=6), [(0, M)])
        result = self.run_ok("map", "d/n", code=6)
        self.assertRegex(result.err, r"\Abitmapctl: map: [^\n]*unknown[^\n]*\n\Z")
        self.silent("bitmap", "clear", "d/n", "--all")
        self.assertEqual(self.json("bitmap", "show", "d/n")["validity"], "exact")
        self.assertEqual(self.dirty("d/n"), [])

    def test_rename_and_delete(self):
        self.run_ok("bitmap", "create", "d/a")
        self.run_ok("bitmap", "create", "d/b")
        self.silent("bitmap", "set", "d/a", "0", "1")
        self.fails(5, "bitmap", "rename", "d/a", "b")
        self.silent("bitmap", "rename", "d/a", "c")
        self.fails(4, "bitmap", "show", "d/a")
        self.assertEqual(self.dirty("d/c"), [(0, 64 * K)])
        self.silent("bitmap", "delete", "d/c")
        self.fails(4, "bitmap", "show", "d/c")
        self.assertEqual(self.json("drive", "show", "d")["bitmaps"], 1)

    def test_merge(self):
        for name, granularity in (("t", "64K"), ("a", "4K"), ("b", "256K")):
            self.run_ok("bitmap", "create", f"d/{name}", "--granularity", granularity)
        self.silent("bitmap", "set", "d/t", "0", "1")
        self.silent("bitmap", "set", "d/a", "132K", "4K")
        self.silent("bitmap", "set", "d/b", "768K", "1")
        self.silent("bitmap", "merge", "d/t", "d/a", "d/b")
        self.assertEqual(
            self.dirty("d/t"), [(0, 64 * K), (128 * K, 64 * K), (768 * K, 256 * K)]
        )
        self.assertEqual(self.dirty("d/a"), [(132 * K, 4 * K)])


class Marks(Online):
    def setUp(self):
        super().setUp()
        self.run_ok("drive", "add", "d", "--size", "1G")
        self.run_ok("bitmap", "create", "d/a")
        self.run_ok("bitmap", "create", "d/b", "--granularity", "512")
        self.run_ok("bitmap", "create", "d/off", "--disabled")

    def test_one(self):
        self.silent("mark", "d", "64K", "1")
        self.assertEqual(self.json("mark", "d", "1023M", "1M"), {"schema_version": 1, "marked": 1})
        self.assertEqual(self.dirty("d/a"), [(64 * K, 64 * K), (1023 * M, M)])
        self.assertEqual(self.dirty("d/b"), [(64 * K, 512), (1023 * M, M)])
        self.assertEqual(self.dirty("d/off"), [])
        self.assertEqual(self.json("drive", "show", "d")["unsettled"], 0)

    def test_many(self):
        count = 50000
        lines = "".join(f"{i * 2 * 512} 512\n" for i in range(count))
        result = self.json("mark", "d", "--stdin", stdin=lines)
        self.assertEqual(result, {"schema_version": 1, "marked": count})
        self.assertEqual(self.dirty("d/b"), [(i * 1024, 512) for i in range(count)])
        self.assertEqual(self.json("drive", "show", "d")["unsettled"], 0)

    def test_hold(self):
        result = self.json("mark", "d", "--stdin", "--hold", stdin="0 1\n1M 1\n")
        self.assertEqual(result["marked"], 2)
        held = [(0, 64 * K), (M, 64 * K)]
        self.assertEqual(self.dirty("d/a"), held)
        # Their writes may still reach the drive: nothing makes them clean, until they are given up.
        self.silent("mark", "d", "2M", "1")
        self.silent("bitmap", "clear", "d/a", "--all")
        self.assertEqual(self.dirty("d/a"), held)
        shown = self.json("drive", "show", "d")
        self.assertEqual((shown["lost_writers"], shown["unsettled"]), (1, 2))
        self.silent("drive", "fence", "d")
        shown = self.json("drive", "show", "d")
        self.assertEqual((shown["lost_writers"], shown["unsettled"]), (0, 0))
        self.assertEqual(self.dirty("d/a"), held)
        self.silent("bitmap", "clear", "d/a", "--all")
        self.assertEqual(self.dirty("d/a"), [])

    def test_bad_line(self):
        result = self.fails(2, "mark", "d", "--stdin", stdin="0 1\n1M 1\nnonsense\n2M 1\n")
        self.assertIn("line 3", result.err)
        self.assertEqual(self.dirty("d/a"), [(0, 64 * K), (M, 64 * K)])
        result = self.fails(1, "mark", "d", "--stdin", stdin="2M 1\n1G 1\n3M 1\n")
        self.assertIn("line 2", result.err)
        self.assertEqual(self.dirty("d/a"), [(0, 64 * K), (M, 64 * K), (2 * M, 64 * K)])


class Service(Online):
    def test_status_and_reload(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.silent("mark", "d", "0", "1")
        status = self.json("status")
        expected = {
            "container_path": self.daemon.container, "drives": 1, "bitmaps": 1,
            "unknown_bitmaps": 0, "degraded": False, "marks": 1,
        }  # fmt: skip
        self.assertEqual({**status, **expected}, status)
        self.assertGreaterEqual(status["sequence"], 3)
        self.assertGreaterEqual(status["sequence"], status["applied_seq"])
        self.assertIn("state:         running\n", self.run_ok("status").out)
        self.assertEqual(self.run_ok("status", "-o", "ndjson").lines()[0]["bitmaps"], 1)
        self.assertEqual(self.json("reload"), {"schema_version": 1})

    def test_flush_and_containers_beside_the_daemon(self):
        self.run_ok("drive", "add", "größe/d", "--size", "100001")
        self.run_ok("bitmap", "create", "größe/d/n")
        self.run_ok("bitmap", "create", "größe/d/m", "--granularity", "512")
        self.silent("mark", "größe/d", "65536", "1")
        self.assertEqual(self.json("flush"), {"schema_version": 1})
        status = self.json("status")
        info = self.json("container", "info", self.daemon.container)
        self.assertEqual(info["uuid"], status["container_uuid"])
        # The last granule of 64 KiB is cut at the drive's size rounded up to 512.
        self.assertEqual(
            {b["name"]: (b["granularity"], b["sectors"], b["dirty_bytes"]) for b in info["bitmaps"]},
            {"größe/d/n": (65536, 196, 196 * 512 - 65536), "größe/d/m": (512, 196, 512)},
        )
        self.assertTrue(all(b["damage"] is None for b in info["bitmaps"]))
        self.fails(5, "container", "check", self.daemon.container)
        self.fails(5, "container", "create", self.daemon.container)
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        self.fails(3, "status")
        info = self.json("container", "info", self.daemon.container)
        self.assertEqual((info["clean"], info["leaks"]), (True, 0))
        self.run_ok("container", "check", self.daemon.container)

    def test_restart(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.silent("mark", "d", "0", "1")
        before = self.json("bitmap", "show", "d/n")
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        self.daemon.start()
        self.assertEqual(self.json("bitmap", "show", "d/n"), before)
        self.assertEqual(self.dirty("d/n"), [(0, 64 * K)])

    def test_crash(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.silent("mark", "d", "0", "1")
        self.assertEqual(self.daemon.end(signal.SIGKILL), -signal.SIGKILL)
        self.assertIs(self.json("container", "info", self.daemon.container)["clean"], False)
        self.daemon.start()
        self.assertEqual(self.json("bitmap", "show", "d/n")["validity"], "exact")
        self.assertEqual(self.dirty("d/n"), [(0, 64 * K)])

    def test_lost_journal(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.assertEqual(self.daemon.end(signal.SIGKILL), -signal.SIGKILL)
        for segment in ("0", "1"):
            os.unlink(os.path.join(os.path.dirname(self.daemon.container), f"journal.{segment}"))
        self.daemon.start()
        self.assertEqual(self.json("status")["bitmaps"], 0)  # it was in the journal only

        self.run_ok("drive", "add", "d", "--size", "1M")
        self.run_ok("bitmap", "create", "d/n")
        self.run_ok("flush")
        self.assertEqual(self.daemon.end(signal.SIGKILL), -signal.SIGKILL)
        for segment in ("0", "1"):
            os.unlink(os.path.join(os.path.dirname(self.daemon.container), f"journal.{segment}"))
        self.daemon.start()
        self.assertEqual(self.json("bitmap", "show", "d/n")["validity"], "unknown")
        self.assertEqual(self.json("status")["unknown_bitmaps"], 1)
        self.assertEqual(self.dirty("d/n", code=6), [(0, M)])

    def test_damaged_bitmap(self):
        self.run_ok("drive", "add", "d", "--size", "1M")
        for name in ("a", "b"):
            self.run_ok("bitmap", "create", f"d/{name}")
            self.silent("bitmap", "set", f"d/{name}", "0", "1")
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        with open(self.daemon.container, "r+b") as file:
            # The first entry of the bitmap table, of its L1 table, the first byte of its bits.
            offset = 108
            for _ in range(3):
                file.seek(offset)
                offset = int.from_bytes(file.read(8), "big") & ((1 << 56) - 512)
            file.seek(offset)
            file.write(b"\xa5")
        info = self.json("container", "info", self.daemon.container)
        self.assertEqual([b["dirty_bytes"] for b in info["bitmaps"]], [None, 64 * K])
        self.assertNotEqual(info["bitmaps"][0]["damage"], "")
        self.assertIsNone(info["bitmaps"][1]["damage"])
        table = self.run_ok("container", "info", self.daemon.container).out
        self.assertRegex(table, r"(?m)^d/a .* \? .+$")
        result = run("container", "check", self.daemon.container, "-o", "json")
        self.assertEqual((result.code, result.json()["leaks"]), (2, 0))
        self.daemon.start()
        self.assertEqual(self.json("bitmap", "show", "d/a")["validity"], "unknown")
        self.assertEqual(self.json("bitmap", "show", "d/b")["validity"], "exact")

    def test_no_daemon(self):
        self.assertEqual(self.daemon.end(signal.SIGTERM), 0)
        for words in (["status"], ["drive", "list"], ["mark", "d", "0", "1"], ["map", "d/n"]):
            self.fails(3, *words)


if __name__ == "__main__":
    unittest.main()
