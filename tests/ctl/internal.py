# SPDX-License-Identifier: LGPL-2.1-or-later
"""`container create --internal` on images of real QEMU's: what it takes keeps its disk, its
snapshots and its backing file; what it does not take is refused with the reason and the remedy,
which is then tried; a kill at any write leaves the old image or the new one."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from program import BITMAPCTL, ENVIRONMENT, run, spawn

TOOLS = ("qemu-img", "qemu-io", "strace")


def qemu(tool, *words, code=0):
    done = subprocess.run([tool, *words], capture_output=True, text=True, timeout=60)
    if code is not None and done.returncode != code:
        raise AssertionError(f"{tool} {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Scratch(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.path = self.name("image.qcow2")

    def name(self, name):
        return os.path.join(self.directory, name)

    def create(self, *options, size="8M", path=None):
        path = path or self.path
        if os.path.exists(path):
            os.unlink(path)
        words = [word for option in options for word in option.split(" ")]
        sized = [size] if size else []
        qemu("qemu-img", "create", "-q", "-f", "qcow2", *words, path, *sized)

    def io(self, *commands, path=None, code=0):
        words = [word for command in commands for word in ("-c", command)]
        return qemu("qemu-io", "-f", "qcow2", *words, path or self.path, code=code)

    def snapshot(self, name):
        qemu("qemu-img", "snapshot", "-c", name, self.path)

    def copy(self, name):
        return shutil.copyfile(self.path, self.name(name))

    def bytes(self):
        with open(self.path, "rb") as file:
            return file.read()

    def patch(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def field(self, offset, form=">Q"):
        return struct.unpack_from(form, self.bytes(), offset)[0]

    def prepare(self, code=0):
        result = run("container", "create", "--internal", self.path)
        self.assertEqual(result.code, code, result)
        if code == 0:
            self.assertEqual(result.err, "")
        else:
            self.assertEqual(result.out, "")
            self.assertRegex(result.err, r"\Abitmapctl: container create: [^\n]+\n\Z")
        return result

    def info(self):
        result = run("container", "info", "-o", "json", self.path)
        self.assertEqual((result.code, result.err), (0, ""))
        return result.json()

    def qemu_check(self, path):
        done = qemu("qemu-img", "check", "--output=json", path, code=None)
        report = json.loads(done.stdout)
        self.assertEqual(report.get("corruptions", 0), 0, report)
        self.assertEqual(report["check-errors"], 0, report)
        return report.get("leaks", 0)

    def told(self, path):
        told = json.loads(qemu("qemu-img", "info", "--output=json", path).stdout)
        keys = ("virtual-size", "cluster-size", "full-backing-filename", "backing-filename-format",
                "snapshots", "format-specific")  # fmt: skip
        return {key: told.get(key) for key in keys}

    def same_disk(self, before):
        """The image at self.path has the disk that is in @before, now and in each snapshot."""
        told = self.told(self.path)
        self.assertEqual(told, self.told(before))
        qemu("qemu-img", "compare", before, self.path)
        for snapshot in told["snapshots"] or []:
            now = self.copy("now.qcow2")
            then = shutil.copyfile(before, self.name("then.qcow2"))
            for path in (now, then):
                qemu("qemu-img", "snapshot", "-a", snapshot["id"], path)
            qemu("qemu-img", "compare", now, then)

    def becomes_one(self):
        before = self.copy("before.qcow2")
        leaks = self.qemu_check(before)
        self.prepare()
        self.same_disk(before)
        # Two clusters are ours: the mirror and the state.
        self.assertEqual(self.qemu_check(self.path), leaks + 2)
        check = run("container", "check", self.path)
        self.assertEqual((check.code, check.out), (0, "No errors were found.\n"))
        info = self.info()
        self.assertEqual((info["header_length"], info["bitmaps"], info["leaks"]), (120, [], 0))
        self.assertTrue(info["clean"])
        self.assertEqual(info["virtual_size"], self.told(before)["virtual-size"])
        self.assertIn("already", self.prepare(code=5).err)


class Images(Scratch):
    def test_every_cluster_size_and_refcount_width(self):
        self.create(path=self.name("base.qcow2"))
        self.io("write -P 77 0 1M", path=self.name("base.qcow2"))
        for bits in range(9, 22):
            with self.subTest(cluster_bits=bits):
                width = 1 << (bits % 7)
                backing = ["-b base.qcow2 -F qcow2"] if bits % 2 else []
                lazy = "on" if bits % 3 == 0 else "off"
                self.create(
                    f"-o cluster_size={1 << bits},refcount_bits={width},lazy_refcounts={lazy}",
                    *backing)
                self.io("write -P 1 0 100k", "write -P 2 3M 300k", "write -z 1M 64k")
                if width >= 2:
                    self.snapshot("one")
                    self.io("write -P 3 50k 100k", "discard 3M 64k")
                if width >= 4:
                    self.snapshot("two ü")
                    self.io(f"write -c -P 4 6M {max(1 << bits, 4096)}")
                self.becomes_one()

    def test_compressed(self):
        with open(self.name("raw"), "wb") as raw:
            for i in range(64):
                raw.write(os.urandom(20000) + bytes([i]) * 45536)
        qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", self.name("raw"), self.path)
        self.becomes_one()

    def test_hundreds_of_references_to_one_cluster(self):
        self.create("-o cluster_size=64K", size="64M")
        self.io(*(f"write -c -P {1 + i % 200} {i * 64}k 64k" for i in range(600)))
        self.snapshot("one")
        self.becomes_one()

    def test_preallocated(self):
        for kind in ("metadata", "falloc", "full"):
            self.create(f"-o preallocation={kind}", size="2M")
            self.becomes_one()

    def test_no_disk_at_all(self):
        self.create(size="0")
        self.becomes_one()

    def test_state_of_a_machine(self):
        """Snapshots whose L1 table is longer than the disk's."""
        self.create("-o cluster_size=512", size="1M")
        self.io("write -P 1 0 1M")
        self.snapshot("short")
        qemu("qemu-img", "resize", "-q", self.path, "4M")
        self.io("write -P 2 3M 1M")
        self.snapshot("long")
        self.becomes_one()

    def test_bitmaps_of_qemu(self):
        self.create()
        for name in ("b0", "b1"):
            qemu("qemu-img", "bitmap", "--add", "-g", "64K", self.path, name)
            self.io("write -P 1 1M 300k")
        before = self.told(self.path)["format-specific"]["data"]["bitmaps"]
        self.assertEqual([bitmap["name"] for bitmap in before], ["b0", "b1"])
        self.becomes_one()
        # QEMU still has them, and their bits.
        qemu("qemu-img", "bitmap", "--add", self.path, "sum")
        qemu("qemu-img", "bitmap", "--merge", "b0", self.path, "sum")
        names = [b["name"] for b in self.told(self.path)["format-specific"]["data"]["bitmaps"]]
        self.assertEqual(names, ["b0", "b1", "sum"])

    def test_bitmaps_of_qemu_that_are_out_of_date(self):
        self.create()
        qemu("qemu-img", "bitmap", "--add", "--enable", self.path, "b0")
        self.patch(88, struct.pack(">Q", 0))
        self.prepare()
        self.assertEqual(run("container", "check", self.path).code, 0)

    def test_shortest_header(self):
        """104 bytes, as QEMU wrote before 5.1."""
        self.create()
        head = bytearray(self.bytes()[:65536])
        self.assertEqual(struct.unpack_from(">I", head, 100)[0], 112)
        struct.pack_into(">I", head, 100, 104)
        self.patch(0, bytes(head[:104] + head[112:]) + bytes(8))
        self.becomes_one()

    def test_unknown_extension(self):
        self.create()
        head = self.bytes()[:65536]
        end = 112
        while head[end : end + 4] != bytes(4):
            end += 8 + (struct.unpack_from(">I", head, end + 4)[0] + 7 & ~7)
        mine = struct.pack(">II", 0x12345678, 5) + b"hello\0\0\0"
        self.patch(end, mine + bytes(8))
        self.becomes_one()
        self.assertIn(mine, self.bytes()[:65536])

    def test_output(self):
        self.create()
        result = run("container", "create", "--internal", self.path, "-o", "json")
        value = result.json()
        self.assertEqual((result.code, value["schema_version"], value["file"], value["cluster_size"]),
                         (0, 1, self.path, 65536))  # fmt: skip
        self.assertEqual(value["uuid"], self.info()["uuid"])

    def test_usage(self):
        self.create()
        before = self.bytes()
        result = run("container", "create", "--internal", "--cluster-size", "64K", self.path)
        self.assertEqual((result.code, result.out), (2, ""))
        self.assertEqual(self.bytes(), before)


class Refusals(Scratch):
    def refused(self, *words, code=1):
        """Untouched, and by all verbs that would have to write or follow it."""
        before = self.bytes()
        result = self.prepare(code=code)
        for word in words:
            self.assertIn(word, result.err)
        self.assertEqual(self.bytes(), before)
        self.assertNotEqual(run("container", "check", self.path).code, 0)
        self.assertEqual(self.bytes(), before)

    def test_no_qcow2(self):
        for data in (b"", b"QFI\xfb", bytes(100000), b"QFI\xfb" + bytes(100000)):
            with open(self.path, "wb") as file:
                file.write(data)
            self.refused()
        os.unlink(self.path)
        self.prepare(code=1)
        self.assertFalse(os.path.exists(self.path))

    def test_version_2(self):
        self.create("-o compat=0.10")
        self.io("write -P 1 0 1M")
        self.refused("version", "found 2", "qemu-img amend -o compat=1.1")
        qemu("qemu-img", "amend", "-o", "compat=1.1", self.path)
        self.becomes_one()

    def test_compression_type(self):
        self.create("-o compression_type=zstd")
        self.io("write -P 1 0 1M")
        self.refused("compression type", "compression_type=zlib")
        os.rename(self.path, self.name("zstd"))
        qemu("qemu-img", "convert", "-O", "qcow2", "-o", "compression_type=zlib",
             self.name("zstd"), self.path)  # fmt: skip
        self.becomes_one()

    def test_extended_l2(self):
        self.create("-o extended_l2=on")
        self.io("write -P 1 0 1M")
        self.refused("extended L2", "extended_l2=off")

    def test_external_data_file(self):
        self.create(f"-o data_file={self.name('data')}")
        self.refused("another file")

    def test_encryption(self):
        secret = ("--object", "secret,id=s,data=abc")
        for options in ("encrypt.format=luks,encrypt.iter-time=10", "encrypt.format=aes"):
            if os.path.exists(self.path):
                os.unlink(self.path)
            for attempt in range(20):
                # QEMU measures how fast it hashes, and gives up on a machine that is busy.
                done = qemu("qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o",
                            f"{options},encrypt.key-secret=s", self.path, "8M",
                            code=0 if attempt == 19 else None)  # fmt: skip
                if done.returncode == 0:
                    break
            self.refused("encrypted")

    def test_dirty(self):
        self.create("-o lazy_refcounts=on")
        self.io("write -P 1 0 1M", "abort", code=None)
        self.assertEqual(self.field(72) & 1, 1)
        self.refused("not up to date", "qemu-img check -r all")
        qemu("qemu-img", "check", "-q", "-r", "all", self.path)
        self.becomes_one()

    def test_corrupt(self):
        """QEMU itself marks it, for it finds its L2 table counted as free."""
        self.create()
        self.io("write -P 1 0 64k")
        block = self.field(self.field(48))
        l2 = self.field(self.field(40)) & 0x00FFFFFFFFFFFE00
        self.patch(block + 2 * (l2 // 65536), bytes(2))
        self.io("write -P 2 1M 64k", code=None)
        self.assertEqual(self.field(72) & 2, 2)
        self.refused("corrupt", "qemu-img check -r all")
        qemu("qemu-img", "check", "-q", "-r", "all", self.path, code=None)
        self.becomes_one()

    def test_refcounts_too_low(self):
        self.create()
        self.io("write -P 1 0 64k")
        block = self.field(self.field(48))
        l2 = self.field(self.field(40)) & 0x00FFFFFFFFFFFE00
        self.patch(block + 2 * (l2 // 65536), bytes(2))
        self.refused("lower refcount", "qemu-img check -r all")
        qemu("qemu-img", "check", "-q", "-r", "all", self.path, code=None)
        self.becomes_one()

    def test_damaged(self):
        self.create()
        self.io("write -P 1 0 64k")
        l2 = self.field(self.field(40)) & 0x00FFFFFFFFFFFE00
        self.patch(l2, struct.pack(">Q", 1 << 63 | 1 << 40))
        self.refused("L2 entry", "within the file")

    def test_unknown_feature(self):
        self.create()
        self.patch(72, struct.pack(">Q", 1 << 20))
        self.refused("incompatible features", "0x100000")

    def test_another_use_of_the_fields(self):
        self.create()
        self.patch(106, b"\1")
        self.refused("byte 106", "expected 0")
        self.patch(104, bytes(8))
        # A longer header that says it has bitmaps, and has none.
        head = bytearray(self.bytes()[:65536])
        struct.pack_into(">I", head, 100, 120)
        self.patch(0, bytes(head[:104]) + struct.pack(">IQI", 3, 5 << 20, 0) + bytes(head[112:])[:900])
        self.refused("bitmap table")

    def test_no_room(self):
        long = "x" * 250
        self.create(path=self.name(long))
        self.create("-o cluster_size=512", f"-b {long} -F qcow2", size=None)
        self.refused("no room", "qemu-img rebase -u -b", "cluster_size=64K")
        os.rename(self.name(long), self.name("short"))
        qemu("qemu-img", "rebase", "-u", "-b", "short", "-F", "qcow2", self.path)
        self.becomes_one()

    def test_no_space(self):
        self.create()
        self.io("write -P 1 0 1M")
        before, size = self.bytes(), os.path.getsize(self.path)
        script = f'ulimit -f {size // 1024}; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", f"trap '' XFSZ; {script}", "sh", BITMAPCTL, "container", "create",
             "--internal", self.path], env=ENVIRONMENT, capture_output=True, timeout=60)  # fmt: skip
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual(self.bytes()[:size], before)
        self.assertEqual(self.qemu_check(self.path), 0)
        self.becomes_one()

    def test_in_use(self):
        self.create()
        holder = spawn(["qemu-io", "-f", "qcow2", self.path], stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.stdin.close)
        holder.stdin.write(b"write 0 64k\n")
        holder.stdin.flush()
        holder.stdout.readline()
        before = self.bytes()
        self.assertIn("in use", self.prepare(code=5).err)
        self.assertEqual(self.bytes(), before)


class Kills(Scratch):
    def test_at_every_write(self):
        """The whole thing, for an image whose header block grows over its old end."""
        self.create(path=self.name("base.qcow2"))
        self.create("-b base.qcow2 -F qcow2 -o cluster_size=8K")
        self.io("write -P 1 0 100k")
        self.snapshot("one")
        self.io("write -P 2 50k 100k")
        before = self.copy("before.qcow2")
        states = []
        for call in ("pwrite64", "fdatasync", "fallocate"):
            for number in range(1, 100):
                shutil.copyfile(before, self.path)
                killed = subprocess.run(
                    ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                     "-e", f"inject={call}:signal=SIGKILL:when={number}",
                     BITMAPCTL, "container", "create", "--internal", self.path],
                    env=ENVIRONMENT, capture_output=True, timeout=60)  # fmt: skip
                self.qemu_check(self.path)
                qemu("qemu-img", "compare", before, self.path)
                if killed.returncode == 0:
                    break
                result = run("container", "create", "--internal", self.path)
                self.assertIn(result.code, (0, 5), result)
                states.append(result.code)
                self.assertIn(run("container", "check", self.path).code, (0, 3))
        self.assertEqual(set(states), {0, 5})
        self.assertGreater(len(states), 8)
        self.same_disk(before)


if __name__ == "__main__":
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"not installed: {' '.join(missing)}: skipped")
        sys.exit(77)
    unittest.main()
