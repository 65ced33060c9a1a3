# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checkpoints, maps between them, adopting, and what is said of writing past the daemon."""

import json
import struct
import unittest

import fake
from fake import Fake, UUID_TEXT
from hostile import ask


def listing(*items):
    return [*((fake.MORE, 0, item) for item in items), (0, 0, struct.pack("<Q", len(items)))]


def created(drives):
    return fake.ok(fake.UUID + struct.pack("<QQI", 60, 61, drives))


class Checkpoints(unittest.TestCase):
    def test_create(self):
        answers = {fake.CHECKPOINT_CREATE: created(2)}
        words = ["checkpoint", "create", "täglich", "vg0/a", "b"]
        result = ask(answers, *words)
        self.assertEqual((result.code, result.err), (0, ""))
        self.assertEqual(result.out, f"created checkpoint täglich@{UUID_TEXT} on 2 drives\n")
        payload = result.daemon.sent(fake.CHECKPOINT_CREATE)[0]
        self.assertEqual(
            payload[16:],
            fake.string("täglich") + struct.pack("<H", 2) + fake.string("vg0/a") + fake.string("b"),
        )
        for form in ("json", "ndjson"):
            self.assertEqual(
                ask(answers, *words, "-o", form).json(),
                {"schema_version": 1, "name": "täglich", "uuid": UUID_TEXT, "sequence": 60,
                 "created_ns": 61, "drives": ["vg0/a", "b"]},
            )  # fmt: skip
        one = ask({fake.CHECKPOINT_CREATE: created(1)}, "checkpoint", "create", "c", "d")
        self.assertEqual(one.out, f"created checkpoint c@{UUID_TEXT} on 1 drive\n")

    def test_list(self):
        answers = {
            fake.CHECKPOINT_LIST: listing(
                fake.checkpoint(name="eins", recording=0),
                fake.checkpoint(name="zwei", validity=1, reason="lost", untracked="no\x1bne"),
            )
        }
        common = {
            "drive": "d", "uuid": UUID_TEXT, "sequence": 60, "created_ns": 1_000_000_000,
            "granularity": 65536, "size": 1 << 20, "dirty_bytes": 131072, "dirty_count": 2,
        }  # fmt: skip
        expected = [
            {**common, "name": "eins", "recording": False, "validity": "exact", "reason": "",
             "untracked": "ruled-out"},
            {**common, "name": "zwei", "recording": True, "validity": "superset", "reason": "lost",
             "untracked": "not-ruled-out", "untracked_reason": "no\x1bne"},
        ]  # fmt: skip
        self.assertEqual(
            ask(answers, "checkpoint", "list", "-ojson").json(),
            {"schema_version": 1, "checkpoints": expected},
        )
        lines = ask(answers, "checkpoint", "list", "d", "-ondjson").lines()
        self.assertEqual(lines, [{"schema_version": 1, **item} for item in expected])
        result = ask(answers, "checkpoint", "list", "vg0/d")
        self.assertEqual(result.daemon.sent(fake.CHECKPOINT_LIST), [fake.string("vg0/d")])
        head, first, second = result.out.splitlines()
        self.assertRegex(head, r"\ADRIVE +NAME +UUID +CREATED +RECORDING +DIRTY +VALIDITY\b")
        self.assertRegex(first, rf"\Ad +eins +{UUID_TEXT} +1970-01-01T00:00:01Z +no +128K +exact +ruled out\Z")
        self.assertRegex(second, r"superset +lost +not ruled out: no\\x1bne\Z")
        empty = {fake.CHECKPOINT_LIST: listing()}
        self.assertEqual(
            ask(empty, "checkpoint", "list", "-ojson").json(),
            {"schema_version": 1, "checkpoints": []},
        )

    def test_list_cut_short(self):
        answers = {fake.CHECKPOINT_LIST: listing(fake.checkpoint())[:1] + [Fake.CLOSE]}
        for form in ("human", "json"):
            result = ask(answers, "checkpoint", "list", "-o", form)
            self.assertEqual((result.code, result.out), (1, ""))

    def test_delete(self):
        answers = {fake.CHECKPOINT_DELETE: fake.ok()}
        for name in ("c", f"c@{UUID_TEXT}"):
            result = ask(answers, "checkpoint", "delete", "vg0/d", name)
            self.assertEqual((result.code, result.out, result.err), (0, "", ""))
            self.assertEqual(
                result.daemon.sent(fake.CHECKPOINT_DELETE)[0][16:],
                fake.string("vg0/d") + fake.string(name),
            )
        self.assertEqual(
            ask(answers, "checkpoint", "delete", "d", "c", "-ojson").json(), {"schema_version": 1}
        )

    def test_refusals(self):
        for operation, words in {
            fake.CHECKPOINT_CREATE: ["checkpoint", "create", "c", "d"],
            fake.CHECKPOINT_LIST: ["checkpoint", "list", "d"],
            fake.CHECKPOINT_DELETE: ["checkpoint", "delete", "d", "c"],
            fake.CHECKPOINT_MAP: ["map", "d", "--since", "c"],
            fake.DRIVE_ADOPT: ["drive", "adopt", "d"],
        }.items():
            for status, code in {4: 1, 5: 4, 6: 5, 7: 5, 8: 7, 16: 1}.items():
                result = ask({operation: fake.refusal(status, "so it is")}, *words, "-ojson")
                self.assertEqual((result.code, result.out), (code, ""), words)
                self.assertRegex(result.err, r"\Abitmapctl: [a-z ]+: so it is\n\Z")


class Adopting(unittest.TestCase):
    def test_adopt(self):
        result = ask({fake.DRIVE_ADOPT: fake.ok()}, "drive", "adopt", "vg0/d")
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))
        self.assertEqual(
            result.daemon.sent(fake.DRIVE_ADOPT)[0][16:],
            fake.string("vg0/d") + fake.string("") + b"\0",
        )

    def test_drive_tells(self):
        plain = fake.drive()
        full = fake.drive(checkpoints=3, known_by="inode 5\n", untracked="the machine was rebooted")
        answers = {fake.DRIVE_SHOW: fake.ok(full), fake.DRIVE_LIST: listing(plain, full)}
        shown = ask(answers, "drive", "show", "d", "-ojson").json()
        expected = {"checkpoints": 3, "identity": "inode 5\n", "untracked": "not-ruled-out",
                    "untracked_reason": "the machine was rebooted"}  # fmt: skip
        self.assertEqual({key: shown[key] for key in expected}, expected)
        first, second = ask(answers, "drive", "list", "-ojson").json()["drives"]
        self.assertEqual({key: second[key] for key in expected}, expected)
        self.assertEqual((first["untracked"], first["identity"]), ("ruled-out", ""))
        self.assertNotIn("untracked_reason", first)
        human = ask(answers, "drive", "show", "d").out
        self.assertIn("\ncheckpoints:  3\nidentity:     inode 5\\x0a\n"
                      "untracked:    not ruled out: the machine was rebooted\n", human)  # fmt: skip
        table = ask(answers, "drive", "list").out
        self.assertRegex(table, r"\ANAME .* RECORDING +CHECKPOINTS +WRITERS +LOST +PATH\n")
        self.assertRegex(table, r"\nd .* 3 +0 +0 *\n")
        answers[fake.DRIVE_SHOW] = fake.ok(plain)
        human = ask(answers, "drive", "show", "d").out
        self.assertIn("\nidentity:     not known\nuntracked:    ruled out\n", human)

    def test_bitmap_tells(self):
        item = fake.bitmap(untracked="no evidence")
        answers = {fake.BITMAP_SHOW: fake.ok(item), fake.BITMAP_LIST: listing(fake.bitmap(), item)}
        shown = ask(answers, "bitmap", "show", "d/n", "-ojson").json()
        self.assertEqual(shown["untracked"], "not-ruled-out")
        self.assertEqual(shown["untracked_reason"], "no evidence")
        self.assertIn("untracked:    not ruled out: no evidence\n",
                      ask(answers, "bitmap", "show", "d/n").out)  # fmt: skip
        first, second = ask(answers, "bitmap", "list", "-ojson").json()["bitmaps"]
        self.assertEqual((first["untracked"], second["untracked"]), ("ruled-out", "not-ruled-out"))
        lines = ask(answers, "bitmap", "list").out.splitlines()
        self.assertTrue(lines[1].endswith(" ruled out"))
        self.assertTrue(lines[2].endswith(" not ruled out: no evidence"))


class Maps(unittest.TestCase):
    RUNS = [(0, 65536), (131072, 65536)]

    def map(self, form, *words, runs=None, **head):
        replies = fake.map_replies(self.RUNS if runs is None else runs, name="vg0/d", **head)
        return ask({fake.CHECKPOINT_MAP: replies}, "map", "vg0/d", "-o", form, *words)

    def test_since(self):
        for since in ("c", f"c@{UUID_TEXT}"):
            result = self.map("ndjson", "--since", since, base="c", untracked="no evidence")
            self.assertEqual((result.code, result.err), (0, ""))
            self.assertEqual(
                result.daemon.sent(fake.CHECKPOINT_MAP),
                [fake.string("vg0/d") + fake.string(since) + fake.string("") + bytes(8)],
            )
            head, *runs, end = result.lines()
            self.assertEqual(
                head,
                {"schema_version": 1, "drive": "vg0/d", "name": None, "size": 1 << 20,
                 "granularity": 65536, "recording": True, "validity": "exact", "reason": "",
                 "untracked": "not-ruled-out", "untracked_reason": "no evidence", "sequence": 5,
                 "base": {"name": "c", "uuid": UUID_TEXT, "sequence": 60}, "target": None},
            )  # fmt: skip
            self.assertEqual([(r["byte_offset"], r["size_bytes"]) for r in runs], self.RUNS)
            self.assertEqual((end["complete"], end["tuples"]), (True, 2))

    def test_until(self):
        result = self.map("ndjson", "--since", "c", "--until", "e", base="c", target="e")
        head = result.lines()[0]
        self.assertEqual(head["target"], {"name": "e", "uuid": UUID_TEXT, "sequence": 70})
        self.assertIn(fake.string("c") + fake.string("e"), result.daemon.sent(fake.CHECKPOINT_MAP)[0])

    def test_other_forms(self):
        self.assertEqual(
            [(e["offset"], e["type"]) for e in self.map("json", "--since", "c", base="c").json()],
            [(0, 1), (65536, 0), (131072, 1), (196608, 0)],
        )
        self.assertEqual(self.map("human", "--since", "c", base="c").out.count("dirty"), 2)

    def test_a_bitmaps_map_has_no_checkpoints(self):
        result = ask({fake.MAP: fake.map_replies([])}, "map", "d/n", "-ondjson")
        head = result.lines()[0]
        self.assertEqual((head["base"], head["target"], head["untracked"]), (None, None, "ruled-out"))
        self.assertEqual((head["drive"], head["name"]), ("d", "n"))

    def test_unknown(self):
        for form in ("human", "json", "ndjson"):
            result = self.map(form, "--since", "c", base="c", runs=[(0, 1 << 20)], validity=2, reason="no")
            self.assertEqual(result.code, 6)
            self.assertEqual(
                result.err,
                "bitmapctl: map: the validity of vg0/d since c is unknown, all of it counts as dirty: no\n",
            )
            self.assertIn("1048576", result.out)

    def test_another_base_is_no_answer(self):
        for since, head in (("c", {"base": "b"}), ("c", {}), ("c", {"base": "c", "target": "e"}),
                            (f"c@{UUID_TEXT[:-1]}0", {"base": "c"})):  # fmt: skip
            result = self.map("json", "--since", since, **head)
            self.assertEqual((result.code, result.out), (1, ""))

    def test_base_that_is_gone(self):
        result = ask({fake.CHECKPOINT_MAP: fake.refusal(5, "no such checkpoint")},
                     "map", "d", "--since", "c", "-ojson")  # fmt: skip
        self.assertEqual((result.code, result.out), (4, ""))

    def test_cut_short(self):
        replies = fake.map_replies(self.RUNS, name="d", base="c")
        for cut in ([*replies[:2], Fake.CLOSE], [*replies[:2], (0, 0, fake.map_end([]))]):
            result = ask({fake.CHECKPOINT_MAP: cut}, "map", "d", "--since", "c", "-ojson")
            self.assertEqual(result.code, 1)
            with self.assertRaises(json.JSONDecodeError):
                result.json()


if __name__ == "__main__":
    unittest.main()
