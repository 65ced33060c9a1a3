# SPDX-License-Identifier: LGPL-2.1-or-later
"""The offline verbs, on containers of our own, on one made by hand as another program may, and
on damaged ones; qemu-img opens what we make."""

import fcntl
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from program import BITMAPCTL, ENVIRONMENT, run

QEMU_IMG = shutil.which("qemu-img")
F_OFD_SETLK = 37
CLUSTER = 65536


def foreign_container(path, bitmaps, cluster=512):
    """
    A container as the format's draft has it, without anything of ours.
    bitmaps: (name, granularity, sectors, L1 entries), each entry 0, 1 (zero
    flag) or the bytes of its data cluster.
    """
    clusters = [bytearray(cluster) for _ in range(4)]  # header, refcount table and block, bitmap table
    table = b""

    def place(data):
        offset = len(clusters) * cluster
        for at in range(0, len(data), cluster):
            clusters.append(bytearray(data[at : at + cluster].ljust(cluster, b"\0")))
        return offset

    for name, granularity, sectors, entries in bitmaps:
        l1 = [place(entry) if isinstance(entry, bytes) else entry for entry in entries]
        entry = struct.pack(
            ">QIIQH", place(struct.pack(f">{len(l1)}Q", *l1)), len(l1), granularity, sectors,
            len(name.encode()),
        ) + name.encode()  # fmt: skip
        table += entry.ljust((len(entry) + 7) & ~7, b"\0")
    clusters[3][: len(table)] = table
    struct.pack_into(
        ">4sIQIIQIIQQIIQQQQIIIQI", clusters[0], 0,
        b"QFI\xfb", 3, 0, 0, cluster.bit_length() - 1, 0, 0, 0, 0, cluster, 1, 0, 0, 0, 0, 0, 4, 120,
        len(bitmaps), 3 * cluster, 0,
    )  # fmt: skip
    struct.pack_into(">Q", clusters[1], 0, 2 * cluster)
    assert len(clusters) <= cluster // 2
    for i in range(len(clusters)):
        struct.pack_into(">H", clusters[2], 2 * i, 1)
    with open(path, "wb") as file:
        file.write(b"".join(clusters))


class Scratch(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.path = os.path.join(self.directory, "c.qcow2")

    def create(self, *words):
        result = run("container", "create", self.path, *words)
        self.assertEqual((result.code, result.err), (0, ""))

    def info(self):
        result = run("container", "info", self.path, "-o", "json")
        self.assertEqual((result.code, result.err), (0, ""))
        return result.json()

    def bytes(self):
        with open(self.path, "rb") as file:
            return file.read()

    def patch(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def check_fails(self, code, *words):
        result = run("container", *words)
        self.assertEqual((result.code, result.out), (code, ""), result)
        self.assertRegex(result.err, rf"\Abitmapctl: container {words[0]}: [^\n]+\n\Z")
        return result


class Create(Scratch):
    def test_every_cluster_size(self):
        for bits in range(9, 22):
            self.path = os.path.join(self.directory, f"{bits}.qcow2")
            self.create("--cluster-size", str(1 << bits))
            info = self.info()
            self.assertEqual(info["cluster_size"], 1 << bits)
            self.assertEqual((info["virtual_size"], info["header_length"]), (0, 120))
            self.assertEqual((info["bitmaps"], info["leaks"], info["clean"]), ([], 0, True))
            self.assertEqual(info["file_size"], os.path.getsize(self.path))
            self.assertEqual(run("container", "check", self.path).code, 0)
            told = json.loads(
                subprocess.check_output([QEMU_IMG, "info", "--output=json", self.path])
            )
            self.assertEqual(
                (told["format"], told["virtual-size"], told["cluster-size"]),
                ("qcow2", 0, 1 << bits),
            )
        self.path = os.path.join(self.directory, "default")
        self.create()
        self.assertEqual(self.info()["cluster_size"], 65536)

    def test_what_it_prints(self):
        result = run("container", "create", self.path, "-o", "json")
        value = result.json()
        self.assertEqual(
            (value["schema_version"], value["file"], value["cluster_size"]),
            (1, self.path, 65536),
        )
        self.assertEqual(value["uuid"], self.info()["uuid"])
        self.assertRegex(value["uuid"], r"\A[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-")
        other = os.path.join(self.directory, "other")
        result = run("container", "create", other)
        self.assertEqual(result.out.count("\n"), 1)
        self.assertIn(other, result.out)

    def test_does_not_overwrite(self):
        self.create()
        before = self.bytes()
        self.check_fails(5, "create", self.path)
        self.assertEqual(self.bytes(), before)
        link = os.path.join(self.directory, "link")
        os.symlink("nowhere", link)
        self.check_fails(5, "create", link)
        self.assertFalse(os.path.exists(os.path.join(self.directory, "nowhere")))

    def test_where_nothing_can_be(self):
        self.check_fails(1, "create", os.path.join(self.directory, "no", "such"))
        self.check_fails(5, "create", self.directory)

    def test_no_room(self):
        """Half a container is not left behind."""

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        done = subprocess.run(
            [BITMAPCTL, "container", "create", self.path], preexec_fn=limit, env=ENVIRONMENT,
            capture_output=True, timeout=60,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"File too large", done.stderr)
        self.assertFalse(os.path.exists(self.path))

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [BITMAPCTL, "container", "create", self.path], stdout=full, env=ENVIRONMENT,
                stderr=subprocess.PIPE, timeout=60,
            )  # fmt: skip
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"No space left", done.stderr)


class Info(Scratch):
    def test_bitmaps_of_another_program(self):
        # 512-byte clusters: one holds 4096 bits.
        foreign_container(
            self.path,
            [
                # 10000 granules: three clusters, one of zeros; 100 spare bits are set at the end.
                ("vm/a", 512, 10000, [b"\xff" * 512, 1, b"\x01\x80" + b"\0" * 222 + b"\xff" * 288]),
                # The last granule has 1 sector of 8, and is dirty; one more is.
                ("Größe/円", 4096, 17, [b"\x05"]),
                # The last granule is cut and clean.
                ("cut", 4096, 17, [b"\x03"]),
                ("empty", 65536, 2048, [0]),
                ("zeros", 65536, 2048, [1]),
                ("x" * 200, 1 << 31, 1, [b"\x01"]),
            ],
        )
        last = sum(bin(byte).count("1") for byte in (b"\x01\x80" + b"\0" * 222 + b"\xff" * 2))
        expected = [
            ("vm/a", 512, 10000, 3, 2, (4096 + last) * 512),
            ("Größe/円", 4096, 17, 1, 1, 4096 + 512),
            ("cut", 4096, 17, 1, 1, 8192),
            ("empty", 65536, 2048, 1, 0, 0),
            ("zeros", 65536, 2048, 1, 0, 0),
            ("x" * 200, 1 << 31, 1, 1, 1, 512),
        ]
        before = self.bytes()
        info = self.info()
        self.assertEqual(self.bytes(), before)
        self.assertEqual(info["schema_version"], 1)
        self.assertEqual((info["cluster_size"], info["virtual_size"]), (512, 0))
        self.assertEqual((info["uuid"], info["clean"], info["refcount_bits"]), (None, None, 16))
        keys = ("name", "granularity", "sectors", "l1_entries", "allocated_clusters", "dirty_bytes")
        self.assertEqual([tuple(b[key] for key in keys) for b in info["bitmaps"]], expected)
        self.assertEqual([b["damage"] for b in info["bitmaps"]], [None] * 6)
        human = run("container", "info", self.path)
        self.assertEqual((human.code, human.err), (0, ""))
        self.assertRegex(human.out, r"(?m)^Größe/円 +4K +17 +1 +1 +4608\b")

    def test_not_a_container(self):
        for data in (b"", b"QFI\xfb", os.urandom(4096), b"QFI\xfb" + bytes(70000)):
            with open(self.path, "wb") as file:
                file.write(data)
            self.check_fails(1, "info", self.path)
            self.assertEqual(self.bytes(), data)
        subprocess.check_call([QEMU_IMG, "create", "-q", "-f", "qcow2", self.path, "1M"])
        self.assertNotIn(run("container", "info", self.path).code, (2, 3, 4, 5, 6, 7, 99))

    def test_no_regular_file(self):
        self.check_fails(1, "info", os.path.join(self.directory, "none"))
        self.check_fails(1, "info", self.directory)
        self.check_fails(1, "info", "/dev/null")
        os.mkfifo(self.path)
        self.check_fails(1, "info", self.path)

    def test_shape_for_people(self):
        self.create()
        result = run("container", "info", self.path)
        self.assertIn(f"container:      {self.path}\n", result.out)
        self.assertIn("cluster size:   64K\n", result.out)
        self.assertIn(f"UUID:           {self.info()['uuid']}\n", result.out)


class Check(Scratch):
    def check(self, code):
        """The findings, in all three shapes."""
        human = run("container", "check", self.path)
        result = run("container", "check", self.path, "-o", "json")
        value = result.json()
        head, *rest = reversed(run("container", "check", self.path, "-o", "ndjson").lines())
        for each in (human, result):
            self.assertEqual((each.code, each.err), (code, ""), each)
        self.assertEqual((value["schema_version"], value["repaired"], value["losses"]), (1, 0, 0))
        self.assertEqual((value["corruptions"] > 0), code == 2)
        if code == 3:
            self.assertGreater(value["leaks"], 0)
        for found in value["findings"]:
            self.assertIn(found["kind"], ("corruption", "leak"))
            self.assertNotEqual(found["text"], "")
        kinds = [found["kind"] for found in value["findings"]]
        self.assertEqual("corruption" in kinds, value["corruptions"] > 0)
        self.assertEqual("leak" in kinds, value["leaks"] > 0)
        self.assertEqual(
            head,
            {k: value[k] for k in ("schema_version", "corruptions", "leaks", "repaired", "losses")},
        )
        self.assertEqual([(f["kind"], f["text"]) for f in reversed(rest)],
                         [(f["kind"], f["text"]) for f in value["findings"]])  # fmt: skip
        lines = re.findall(r"^(ERROR|LEAK): ", human.out, re.M)
        self.assertEqual(["LEAK" if kind == "leak" else "ERROR" for kind in kinds], lines)
        return value

    def refcounts(self):
        """Offset of the first refcount block."""
        data = self.bytes()
        table = struct.unpack_from(">Q", data, 48)[0]
        return struct.unpack_from(">Q", data, table)[0]

    def test_clean(self):
        self.create()
        self.check(0)
        self.assertEqual(run("container", "check", self.path).out, "No errors were found.\n")

    def test_foreign_clean(self):
        foreign_container(self.path, [("d/n", 512, 4096, [b"\x01"])])
        self.check(0)

    def test_leak(self):
        self.create()
        clusters = os.path.getsize(self.path) // CLUSTER
        before = self.bytes()
        # A cluster that nobody refers to, far behind.
        self.patch(clusters * CLUSTER, bytes(CLUSTER))
        self.patch(self.refcounts() + 2 * clusters, struct.pack(">H", 1))
        self.assertEqual(self.check(3)["leaks"], 1)
        self.assertEqual(self.bytes()[: self.refcounts()], before[: self.refcounts()])

    def test_corrupt(self):
        self.create()
        # The header's own cluster counts as free.
        self.patch(self.refcounts(), b"\0\0")
        before = self.bytes()
        self.check(2)
        self.assertEqual(self.bytes(), before)

    def repair(self, code, *words):
        result = run("container", "check", "--repair", self.path, "-o", "json", *words)
        self.assertEqual((result.code, result.err), (code, ""), result)
        return result.json()

    def test_repair_leaks_and_refcounts(self):
        self.create()
        before = self.info()
        clusters = os.path.getsize(self.path) // CLUSTER
        self.patch(clusters * CLUSTER, bytes(CLUSTER))
        self.patch(self.refcounts() + 2 * clusters, struct.pack(">H", 1))
        self.patch(self.refcounts(), b"\0\0")
        value = self.repair(0)
        self.assertEqual(
            [value[k] for k in ("corruptions", "leaks", "repaired", "losses")], [0, 0, 2, 0]
        )
        self.assertEqual([f["kind"] for f in value["findings"]], ["corruption", "leak"])
        self.check(0)
        after = self.info()
        for key in ("uuid", "commit_id", "applied_seq", "clean"):
            self.assertEqual(after[key], before[key])
        # Nothing is left to do, and nothing is done.
        content = self.bytes()
        self.assertEqual(self.repair(0)["repaired"], 0)
        self.assertEqual(self.bytes(), content)

    def test_repair_of_a_broken_refcount_table(self):
        self.create()
        table = struct.unpack_from(">Q", self.bytes(), 48)[0]
        self.patch(table, os.urandom(4096))
        self.check_fails(1, "info", self.path)
        self.check(2)
        result = run("container", "check", "--repair", self.path)
        self.assertEqual((result.code, result.err), (0, ""))
        self.assertRegex(result.out, r"(?m)^ERROR: refcount table")
        self.assertRegex(result.out, r"\nRepaired: \d+\.\nNo errors are left\.\n\Z")
        self.check(0)
        subprocess.check_call([QEMU_IMG, "info", self.path], stdout=subprocess.DEVNULL)

    def test_repair_after_a_write_by_qemu(self):
        self.create()
        uuid = self.info()["uuid"]
        subprocess.check_call([QEMU_IMG, "check", "-q", "-r", "leaks", self.path])
        value = self.check(2)
        self.assertIn("autoclear", " ".join(f["text"] for f in value["findings"]))
        self.repair(0)
        self.assertEqual((self.info()["uuid"], self.info()["foreign_write"]), (uuid, False))

    def test_repair_of_a_lost_state(self):
        self.create()
        offset = struct.unpack_from(">Q", self.bytes(), 128)[0]
        self.patch(offset, bytes(64))
        value = self.repair(0)
        self.assertEqual(value["losses"], 1)
        self.assertEqual([f["kind"] for f in value["findings"]], ["corruption", "loss"])
        self.assertEqual(self.info()["state_damage"], "the state was lost earlier")
        self.assertEqual(self.repair(0)["findings"], [])
        human = run("container", "check", "--repair", self.path)
        self.assertEqual((human.code, human.out), (0, "No errors were found.\n"))

    def test_repair_of_bits_of_another_program(self):
        foreign_container(self.path, [("vm/a", 512, 100, [b"\xff" * 512])])
        value = self.repair(0)
        self.assertEqual((value["repaired"], value["losses"]), (1, 0))
        self.assertEqual(self.info()["bitmaps"][0]["dirty_bytes"], 100 * 512)

    def test_what_cannot_be_repaired(self):
        for content in (b"no qcow2", b"QFI\xfb" + bytes(200)):
            with open(self.path, "wb") as file:
                file.write(content)
            self.check_fails(1, "check", self.path, "--repair")
            self.assertEqual(self.bytes(), content)

    def test_could_not_check(self):
        self.check_fails(1, "check", os.path.join(self.directory, "none"))
        self.check_fails(1, "check", self.directory)
        result = run("container", "check", self.path, "-o", "json")
        self.assertEqual((result.code, result.out), (1, ""))
        # Not damaged, but none at all.
        for content in (b"", b"no qcow2", b"QFI\xfb" + bytes(200), os.urandom(3 * CLUSTER)):
            with open(self.path, "wb") as file:
                file.write(content)
            self.check_fails(1, "check", self.path)


class Compact(Scratch):
    def compact(self):
        result = run("container", "compact", self.path, "-o", "json")
        self.assertEqual((result.code, result.err), (0, ""), result)
        return result.json()

    def test_nothing_to_gain(self):
        self.create()
        self.compact()
        info = self.info()
        value = self.compact()
        self.assertEqual((value["schema_version"], value["gained"]), (1, 0))
        self.assertLessEqual(value["file_size"], value["file_size_before"])
        self.assertEqual(self.info()["uuid"], info["uuid"])
        self.assertEqual(run("container", "check", self.path).code, 0)

    def test_gains_what_is_behind(self):
        self.create("--cluster-size", "64K")
        before = self.info()
        with open(self.path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(os.urandom(64 * CLUSTER))
            os.fsync(file.fileno())
        value = self.compact()
        self.assertGreaterEqual(value["gained"], 63 * CLUSTER)
        self.assertEqual(value["gained"], value["disk_usage_before"] - value["disk_usage"])
        self.assertEqual(value["file_size"], os.path.getsize(self.path))
        self.assertLessEqual(value["file_size"], 10 * CLUSTER)
        after = self.info()
        for key in ("uuid", "commit_id", "applied_seq", "clean"):
            self.assertEqual(after[key], before[key])
        self.assertEqual(run("container", "check", self.path).code, 0)
        human = run("container", "compact", self.path)
        self.assertRegex(human.out, r"(?m)^gained: +\d+ \(")

    def test_damage_comes_first(self):
        self.create()
        offset = struct.unpack_from(">Q", self.bytes(), 128)[0]
        self.patch(offset, bytes(64))
        before = self.bytes()
        self.assertIn("repair", self.check_fails(1, "compact", self.path).err)
        self.assertEqual(self.bytes(), before)


class Locks(Scratch):
    """QEMU's locks: 100 + p is held, 200 + p is not shared; a daemon of ours locks 300 as well."""

    def lock(self, *offsets):
        file = open(self.path, "rb")
        self.addCleanup(file.close)
        for offset in offsets:
            fcntl.fcntl(
                file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, offset, 1, 0)
            )

    def test_beside_a_writer(self):
        self.create()
        self.lock(300, 101, 103, 201, 203)
        self.assertEqual(self.info()["bitmaps"], [])
        before = self.bytes()
        self.check_fails(5, "check", self.path)
        self.check_fails(5, "check", self.path, "--repair")
        self.check_fails(5, "compact", self.path)
        self.assertEqual(self.bytes(), before)

    def test_beside_a_writer_that_is_no_bitmapd(self):
        self.create()
        self.lock(100, 101, 103, 201, 203)
        self.assertIn("in use", self.check_fails(5, "info", self.path).err)
        self.check_fails(5, "check", self.path)

    def test_beside_a_reader(self):
        self.create()
        self.lock(100)
        self.assertEqual(self.info()["bitmaps"], [])
        self.assertEqual(run("container", "check", self.path).code, 0)

    def test_beside_one_that_lets_nobody_read(self):
        self.create()
        self.lock(100, 200)
        self.check_fails(5, "info", self.path)


if __name__ == "__main__":
    if QEMU_IMG is None:
        print("qemu-img is not installed: skipped")
        sys.exit(77)
    unittest.main()
