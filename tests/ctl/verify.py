# SPDX-License-Identifier: LGPL-2.1-or-later
"""`bitmapctl verify` with real files: what it finds, what it does not, and how it exits."""

import json
import os
import pty
import random
import select
import subprocess
import tempfile
import unittest

import fake
from fake import Fake, UUID_TEXT
from program import BITMAPCTL, ENVIRONMENT, spawn
from hostile import ask

K, M = 1 << 10, 1 << 20


class Verify(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory = scratch.name
        self.drive = os.path.join(scratch.name, "drive")
        self.copy = os.path.join(scratch.name, "copy")

    def write(self, path, data):
        with open(path, "wb") as file:
            file.write(data)

    def change(self, *offsets):
        with open(self.drive, "r+b") as file:
            for offset in offsets:
                file.seek(offset)
                byte = file.read(1)
                file.seek(offset)
                file.write(bytes([byte[0] ^ 1]))

    def both(self, data):
        self.write(self.drive, data)
        self.write(self.copy, data)

    def answers(self, runs, size=None, path=None, **head):
        size = os.path.getsize(self.drive) if size is None else size
        path = self.drive if path is None else path
        return {
            fake.DRIVE_SHOW: fake.ok(fake.drive(name="vg0/d", path=path, size=size)),
            fake.CHECKPOINT_MAP: fake.map_replies(
                runs, **{"name": "vg0/d", "base": "c", "size": size, **head}
            ),
        }

    def verify(self, runs, *words, form="json", **more):
        return ask(
            self.answers(runs, **more),
            "verify", "vg0/d", "--since", "c", "--against", self.copy, "-o", form, *words,
        )  # fmt: skip

    def test_equal_and_dirty(self):
        self.both(random.randbytes(M))
        self.change(5, 65536 * 3, M - 1)
        runs = [(0, 65536), (65536 * 3, 131072), (M - 65536, 65536)]
        result = self.verify(runs)
        self.assertEqual((result.code, result.err), (0, ""))
        self.assertEqual(
            result.json(),
            {"schema_version": 1, "drive": "vg0/d", "size": M, "granularity": 65536, "copy_size": M,
             "validity": "exact", "reason": "",
             "base": {"name": "c", "uuid": UUID_TEXT, "sequence": 60}, "missed": [],
             "missed_bytes": 0, "missed_count": 0, "dirty_bytes": 262144, "dirty_count": 4,
             "changed_bytes": 196608, "changed_count": 3, "precision": 0.75},
        )  # fmt: skip
        self.assertEqual(
            result.daemon.sent(fake.CHECKPOINT_MAP),
            [fake.string("vg0/d") + fake.string("c") + fake.string("") + bytes(8)],
        )
        human = self.verify(runs, form="human")
        self.assertEqual((human.code, human.err), (0, ""))
        self.assertIn("precision 75.0%", human.out)
        self.assertIn("missed:    0 bytes", human.out)

    def test_nothing_dirty(self):
        self.both(bytes(M))
        result = self.verify([])
        self.assertEqual(result.code, 0)
        self.assertIsNone(result.json()["precision"])
        self.assertEqual(self.verify([], form="human").code, 0)

    def test_missed(self):
        self.both(random.randbytes(M))
        # Two neighbours, one behind a dirty run, the very last byte.
        self.change(65536, 131072 + 65535, 5 * 65536 + 1, M - 1)
        runs = [(4 * 65536, 65536)]
        missed = [(65536, 131072), (5 * 65536, 65536), (M - 65536, 65536)]
        result = self.verify(runs)
        self.assertEqual(result.code, 8)
        self.assertRegex(result.err, r"\Abitmapctl: verify: 262144 bytes differ [^\n]*\n\Z")
        value = result.json()
        self.assertEqual([(m["offset"], m["length"]) for m in value["missed"]], missed)
        self.assertEqual((value["missed_bytes"], value["missed_count"]), (262144, 4))
        self.assertEqual((value["dirty_count"], value["changed_count"]), (1, 0))
        self.assertEqual(value["precision"], 0)

        head, *items, end = self.verify(runs, form="ndjson").lines()
        self.assertEqual((head["schema_version"], head["base"]["uuid"]), (1, UUID_TEXT))
        self.assertEqual([(m["offset"], m["length"]) for m in items], missed)
        self.assertEqual((end["complete"], end["missed_bytes"]), (True, 262144))
        human = self.verify(runs, form="human")
        self.assertEqual(human.code, 8)
        lines = [line.split() for line in human.out.splitlines() if line.endswith("  missed")]
        self.assertEqual([(int(a), int(b)) for a, b, _ in lines], missed)

    def test_last_granule_that_the_end_cuts(self):
        size = 100001
        self.both(random.randbytes(size))
        self.change(size - 1)
        result = self.verify([])
        self.assertEqual(result.code, 8)
        self.assertEqual(result.json()["missed"], [{"offset": 65536, "length": size - 65536}])
        result = self.verify([(65536, size - 65536)])
        self.assertEqual(result.code, 0)
        self.assertEqual(result.json()["changed_bytes"], size - 65536)

    def test_short_copy(self):
        data = random.randbytes(M)
        self.write(self.drive, data)
        self.write(self.copy, data[: 5 * 65536 + 10])
        # Past its end all has to be dirty, and so has the granule that it cuts.
        self.assertEqual(self.verify([(5 * 65536, 11 * 65536)]).code, 0)
        result = self.verify([(6 * 65536, 10 * 65536)])
        self.assertEqual(result.code, 8)
        self.assertEqual(result.json()["missed"], [{"offset": 5 * 65536, "length": 65536}])
        result = self.verify([])
        self.assertEqual(result.json()["missed"], [{"offset": 5 * 65536, "length": 11 * 65536}])
        self.write(self.copy, b"")
        self.assertEqual(self.verify([]).json()["missed_bytes"], M)
        self.assertEqual(self.verify([(0, M)]).code, 0)

    def test_long_copy(self):
        data = random.randbytes(M)
        self.write(self.drive, data)
        self.write(self.copy, data + b"more")
        self.assertEqual(self.verify([]).code, 0)

    def test_drive_of_another_size(self):
        self.both(bytes(M))
        result = self.verify([], size=M + 1)
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertRegex(result.err, r"\Abitmapctl: verify: [^\n]*1048576 bytes[^\n]*1048577\n\Z")
        # What is behind the tracked size is not the drive's.
        self.change(M - 1)
        self.assertEqual(self.verify([], size=M - 65536).code, 0)

    def test_drive_path(self):
        self.both(bytes(M))
        snapshot = os.path.join(self.directory, "snapshot")
        self.write(snapshot, bytes(M - 1) + b"x")
        self.assertEqual(self.verify([]).code, 0)
        for path in (self.drive, ""):
            result = self.verify([], "--drive-path", snapshot, path=path)
            self.assertEqual(result.code, 8)
        result = self.verify([], path="")
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertIn("--drive-path", result.err)

    def test_unknown(self):
        self.both(random.randbytes(M))
        self.change(0)
        for form in ("human", "json", "ndjson"):
            result = self.verify([(0, M)], form=form, validity=2, reason="lost\x1b")
            self.assertEqual(result.code, 6)
            self.assertRegex(result.err, r"\Abitmapctl: verify: [^\n\x1b]*unknown[^\n\x1b]*\n\Z")
        value = self.verify([(0, M)], validity=2, reason="lost\x1b").json()
        self.assertEqual((value["validity"], value["reason"]), ("unknown", "lost\x1b"))
        self.assertEqual((value["dirty_bytes"], value["changed_bytes"]), (M, 65536))
        superset = self.verify([(0, M)], validity=1, reason="lost a writer")
        self.assertEqual((superset.code, superset.json()["validity"]), (0, "superset"))

    def test_files_that_are_none(self):
        self.both(bytes(M))
        missing = os.path.join(self.directory, "missing")
        for words in (["--drive-path", missing], ["--drive-path", self.directory],
                      ["--drive-path", "/dev/null"], ["--against", missing],
                      ["--against", self.directory], ["--against", "/dev/zero"],
                      ["--against", self.drive]):  # fmt: skip
            result = self.verify([], *words)
            self.assertEqual((result.code, result.out), (1, ""), words)
            self.assertRegex(result.err, r"\Abitmapctl: verify: [^\n]+\n\Z")
            self.assertEqual(result.daemon.sent(fake.CHECKPOINT_MAP), [])
        link = os.path.join(self.directory, "link")
        os.link(self.drive, link)
        self.assertIn("the drive itself", self.verify([], "--against", link).err)
        fifo = os.path.join(self.directory, "fifo")
        os.mkfifo(fifo)
        self.assertEqual(self.verify([], "--against", fifo).code, 1)

    def test_refusals(self):
        self.both(bytes(M))
        for operation in (fake.DRIVE_SHOW, fake.CHECKPOINT_MAP):
            answers = {**self.answers([]), operation: fake.refusal(5, "gone")}
            result = ask(answers, "verify", "vg0/d", "--since", "c", "--against", self.copy, "-ojson")
            self.assertEqual((result.code, result.out, result.err), (4, "", "bitmapctl: verify: gone\n"))

    def test_map_cut_short(self):
        self.both(random.randbytes(M))
        self.change(0)
        answers = self.answers([(65536, 65536)])
        head, page, _ = answers[fake.CHECKPOINT_MAP]
        for replies in ([head, page, Fake.CLOSE], [head, page, (0, 0, fake.map_end([]))]):
            answers[fake.CHECKPOINT_MAP] = replies
            result = ask(answers, "verify", "vg0/d", "--since", "c", "--against", self.copy, "-ojson")
            self.assertEqual(result.code, 1)
            with self.assertRaises(json.JSONDecodeError):
                result.json()

    def test_another_base(self):
        self.both(bytes(M))
        result = self.verify([], base="b")
        self.assertEqual((result.code, result.out), (1, ""))

    def test_random(self):
        """Against a comparison of our own; more than the buffers hold."""
        for granularity in (512, 65536, 8 * M):
            size = random.randrange(9 * M, 10 * M)
            self.both(random.randbytes(size))
            changed = sorted({random.randrange(size) // granularity for _ in range(40)})
            self.change(*(min(g * granularity + random.randrange(granularity), size - 1)
                          for g in changed))  # fmt: skip
            dirty = {g for g in changed if random.random() < 0.7}
            dirty |= {random.randrange(size) // granularity for _ in range(20)}
            runs = []
            for g in sorted(dirty):
                end = min((g + 1) * granularity, size)
                if runs and runs[-1][0] + runs[-1][1] == g * granularity:
                    runs[-1] = (runs[-1][0], end - runs[-1][0])
                else:
                    runs.append((g * granularity, end - g * granularity))
            value = self.verify(runs, granularity=granularity).json()
            found = set()
            for item in value["missed"]:
                found |= set(range(item["offset"] // granularity,
                                   -(-(item["offset"] + item["length"]) // granularity)))  # fmt: skip
            self.assertEqual(found, set(changed) - dirty)
            self.assertEqual(value["missed_count"], len(found))
            self.assertEqual(value["dirty_count"], len(dirty))
            self.assertEqual(value["changed_count"], len(dirty & set(changed)))
            self.assertEqual(value["dirty_bytes"], sum(length for _, length in runs))

    def test_progress_is_for_terminals(self):
        self.both(bytes(M))
        with Fake(self.answers([])) as daemon:
            terminal, end = pty.openpty()
            program = spawn(
                [BITMAPCTL, "-s", daemon.path, "verify", "vg0/d", "--since", "c", "--against",
                 self.copy, "-ojson"], stdout=subprocess.PIPE, stderr=end, env=ENVIRONMENT,
            )  # fmt: skip
            os.close(end)
            out, _ = program.communicate(timeout=60)
            shown = b""
            try:
                while select.select([terminal], [], [], 60)[0]:
                    shown += os.read(terminal, 4096)
            except OSError:
                pass  # a pty ends with EIO
            os.close(terminal)
        self.assertEqual((program.returncode, shown), (0, b""))
        self.assertEqual(json.loads(out)["missed"], [])


if __name__ == "__main__":
    unittest.main()
