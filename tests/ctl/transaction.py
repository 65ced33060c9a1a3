# SPDX-License-Identifier: LGPL-2.1-or-later
"""`bitmapctl transaction`: lines in, one request out or none, and faults that name the line."""

import struct
import unittest

import fake
from fake import UUID_TEXT
from hostile import ask

DONE = fake.ok(struct.pack("<Q", 77))


def run(stdin, *words, answer=DONE):
    return ask({fake.TRANSACTION: answer}, "transaction", *words, stdin=stdin)


def operations(payload):
    """[(operation, payload without its request id)] of a TRANSACTION."""
    (length,) = struct.unpack_from("<I", payload, 16)
    data = payload[20:]
    assert len(data) == length
    found = []
    while data:
        operation, length = struct.unpack_from("<HI", data)
        assert data[6:22] == bytes(16)
        found.append((operation, data[22 : 6 + length]))
        data = data[6 + length :]
    return found


def strings(*texts):
    return struct.pack("<H", len(texts)) + b"".join(map(fake.string, texts))


class Transactions(unittest.TestCase):
    def test_every_operation(self):
        result = run(
            "# a comment\n"
            "\n"
            "bitmap create d/a\n"
            "bitmap create --disabled d/b --granularity 4K\n"
            "  \t # another\n"
            "\tbitmap  delete d/c \t\n"
            "bitmap enable d/a\n"
            "bitmap disable d/a\n"
            "bitmap rename d/a b\n"
            "bitmap set d/a 64K 1\n"
            "bitmap clear d/a 0 1\n"
            "bitmap clear d/a --all\n"
            "bitmap merge d/t d/a d/b\n"
            "checkpoint create daily vg0/a b\n"
            f"checkpoint delete vg0/a older@{UUID_TEXT}"
        )
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))
        (payload,) = result.daemon.sent(fake.TRANSACTION)
        self.assertNotEqual(payload[:16], bytes(16))
        self.assertEqual(
            operations(payload),
            [
                (32, fake.string("d/a") + struct.pack("<IB", 0, 0)),
                (32, fake.string("d/b") + struct.pack("<IB", 4096, 2)),
                (35, fake.string("d/c") + fake.string("")),
                (36, fake.string("d/a") + fake.string("")),
                (37, fake.string("d/a") + fake.string("")),
                (38, fake.string("d/a") + fake.string("b")),
                (39, fake.string("d/a") + struct.pack("<QQB", 65536, 1, 0)),
                (40, fake.string("d/a") + struct.pack("<QQB", 0, 1, 0)),
                (40, fake.string("d/a") + struct.pack("<QQB", 0, 0, 4)),
                (41, fake.string("d/t") + strings("d/a", "d/b")),
                (80, fake.string("daily") + strings("vg0/a", "b")),
                (82, fake.string("vg0/a") + fake.string(f"older@{UUID_TEXT}")),
            ],
        )

    def test_json(self):
        for form in ("json", "ndjson"):
            result = run("bitmap delete d/a\nbitmap delete d/b\n", "-o", form)
            self.assertEqual(result.json(), {"schema_version": 1, "operations": 2, "sequence": 77})

    def test_bad_line(self):
        for bad, words in {
            "bitmap": "a verb is missing",
            "bitmaps delete d/a": "unknown command",
            "bitmap delete d": "DRIVE/NAME 'd'",
            "bitmap delete d/a d/b": "one too many",
            "bitmap create d/a --granularity 3": "--granularity '3'",
            "bitmap create d/a --size 1": "unknown option --size",
            "bitmap clear d/a": "OFFSET LENGTH or --all is missing",
            "bitmap merge d/a e/b": "not of the same drive",
            "bitmap set d/a 0 0": "LENGTH is 0",
            "checkpoint create c": "operand DRIVE is missing",
            "checkpoint create c d d": "is there twice",
            "checkpoint delete d c@x": "is no UUID",
            "bitmap show d/a": "'bitmap show' is no operation of a transaction",
            "bitmap list": "'bitmap list' is no operation of a transaction",
            "drive remove d": "'drive remove' is no operation of a transaction",
            "mark d 0 1": "'mark' is no operation of a transaction",
            "transaction": "'transaction' is no operation of a transaction",
            "flush": "'flush' is no operation of a transaction",
            "--help": "the operation's own only",
            "bitmap delete d/a --help": "the operation's own only",
            "bitmap delete d/a -s /x": "the operation's own only",
            "bitmap delete d/a -ojson": "the operation's own only",
            "--version": "the operation's own only",
            "bitmap delete d/a\0": "it holds a NUL",
            "bitmap delete d/a # why": "one too many",
            '"bitmap" delete d/a': "unknown command",
        }.items():
            with self.subTest(bad):
                result = run(f"bitmap delete d/a\n\n{bad}\nbitmap delete d/c\n", "-ojson")
                self.assertEqual((result.code, result.out), (2, ""))
                self.assertRegex(result.err, r"\Abitmapctl: transaction: line 3: [^\n]+\n\Z")
                self.assertIn(words, result.err)
                # Not even a connection.
                self.assertEqual(result.daemon.requests, [])

    def test_nothing(self):
        for stdin in ("", "\n\n", "# only this", " \t\n"):
            result = run(stdin)
            self.assertEqual((result.code, result.out), (2, ""))
            self.assertEqual(result.err.count("\n"), 1)
            self.assertEqual(result.daemon.requests, [])

    def test_refused_operation_is_named_by_its_line(self):
        stdin = "# first\nbitmap delete d/a\n\nbitmap delete d/b\nbitmap delete d/c\n"
        for status, code in {4: 1, 5: 4, 6: 5, 7: 5, 8: 7}.items():
            for words in ("1: so it is", "operation 1: so it is"):
                result = run(stdin, "-ojson", answer=fake.refusal(status, words))
                self.assertEqual((result.code, result.out), (code, ""))
                self.assertEqual(result.err, "bitmapctl: transaction: line 4: so it is\n")
        # Words about no operation, or one that there is not.
        for words in ("all of it", "3: of another"):
            result = run(stdin, answer=fake.refusal(9, words))
            self.assertEqual(result.code, 1)
            self.assertEqual(result.err, f"bitmapctl: transaction: {words}\n")

    def test_lost_connection(self):
        result = run("bitmap delete d/a\n", answer=None)
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertIn("outcome", result.err)

    def test_limits(self):
        result = run("bitmap clear d/a --all\n" * 23000)
        self.assertEqual(result.code, 0)
        self.assertEqual(len(operations(result.daemon.sent(fake.TRANSACTION)[0])), 23000)
        result = run("bitmap clear d/a --all\n" * 66000)
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertRegex(result.err, r"\Abitmapctl: transaction: line 2\d{4}: [^\n]+ larger [^\n]+\n\Z")
        result = run("#" * (17 << 20))
        self.assertEqual((result.code, result.out), (2, ""))
        names = " ".join(f"drive{i}" for i in range(20000))
        result = run(f"checkpoint create c {names}\n")
        self.assertEqual(result.code, 0, result.err)


if __name__ == "__main__":
    unittest.main()
