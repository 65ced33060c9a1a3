# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bitmapctl makes of answers: refusals, lost connections, strange text, maps cut short."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import tempfile
import termios
import unittest

import fake
from fake import Fake
from program import BITMAPCTL, ENVIRONMENT, run, spawn


def ask(answers, *words, **more):
    with Fake(answers) as daemon:
        result = run(*words, socket=daemon.path, **more)
    result.daemon = daemon
    return result


class Refusals(unittest.TestCase):
    def test_every_status_has_its_exit_code(self):
        # proto/status.h
        codes = {1: 1, 2: 1, 3: 1, 4: 1, 5: 4, 6: 5, 7: 5, 8: 7, 9: 1, 10: 1, 11: 1, 12: 1, 13: 3,
                 14: 1, 15: 1, 16: 1, 200: 1}  # fmt: skip
        for status, code in codes.items():
            with self.subTest(status=status):
                result = ask({fake.FLUSH: fake.refusal(status, "for a reason")}, "flush")
                self.assertEqual((result.code, result.out), (code, ""))
                self.assertRegex(result.err, r"\Abitmapctl: flush: [^\n]*for a reason[^\n]*\n\Z")

    def test_refused_at_hello(self):
        for status, code in {3: 1, 8: 7, 13: 3}.items():
            with self.subTest(status=status):
                result = ask({fake.HELLO: fake.refusal(status)}, "status")
                self.assertEqual((result.code, result.out), (code, ""))

    def test_lost_connection(self):
        # Before HELLO is answered there is no daemon; a read can be asked again; of a change
        # nobody knows what became.
        self.assertEqual(ask({fake.HELLO: None}, "status").code, 3)
        self.assertEqual(ask({fake.STATUS: None}, "status").code, 3)
        self.assertEqual(ask({fake.BITMAP_CREATE: None}, "bitmap", "create", "d/n").code, 1)

    def test_not_a_daemon(self):
        result = ask({fake.HELLO: [b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", Fake.CLOSE]}, "status")
        self.assertEqual((result.code, result.out), (1, ""))

    def test_strange_reason(self):
        result = ask({fake.FLUSH: fake.refusal(15, "a\x1b[2Jb\nc")}, "flush")
        self.assertEqual(result.err.count("\n"), 1)
        self.assertNotIn("\x1b", result.err)


class Shapes(unittest.TestCase):
    def test_strange_path(self):
        path = b"/\xff\xc3(\x1b]0;\x07/\xe2\x80\xae\xc2\x9bx"
        answers = {
            fake.DRIVE_SHOW: fake.ok(fake.drive(path=path)),
            fake.DRIVE_LIST: [
                (fake.MORE, 0, fake.drive(path=path)),
                (0, 0, struct.pack("<Q", 1)),
            ],
        }
        for words in (["drive", "show", "d"], ["drive", "list"]):
            human = ask(answers, *words)
            self.assertEqual((human.code, human.err), (0, ""))
            self.assertIn(r"/\xff\xc3(\x1b]0;\x07/\xe2\x80\xae\xc2\x9bx", human.out)
            for form in ("json", "ndjson"):
                result = ask(answers, "-o", form, *words)
                self.assertTrue(all(c.isprintable() or c == "\n" for c in result.out))
                value = result.json()
                shown = value["drives"][0] if "drives" in value else value
                self.assertEqual(shown["path"], "/\ufffd\ufffd(\x1b]0;\x07/\u202e\x9bx")

    def test_table_is_the_same_in_every_locale_and_on_every_terminal(self):
        path = "/größe/日本/" + "x" * 300
        answers = {
            fake.DRIVE_LIST: [
                (fake.MORE, 0, fake.drive(name="größe-日本", path=path)),
                (fake.MORE, 0, fake.drive(name="d")),
                (0, 0, struct.pack("<Q", 2)),
            ],
        }
        expected = ask(answers, "drive", "list").out
        lines = expected.splitlines()
        self.assertIn(path, lines[1])
        # "日本" is two characters of two columns each.
        self.assertEqual(lines[1].index("1M") + 2, lines[2].index("1M"))
        with Fake(answers) as daemon:
            for locale in ("C", "C.UTF-8", "nonsense"):
                terminal, end = pty.openpty()
                fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 40, 0, 0))
                program = spawn(
                    [BITMAPCTL, "-s", daemon.path, "drive", "list"],
                    stdout=end, env={**ENVIRONMENT, "LC_ALL": locale},
                )  # fmt: skip
                os.close(end)
                shown = b""
                try:
                    while select.select([terminal], [], [], 60)[0]:
                        shown += os.read(terminal, 4096)
                    program.kill()  # it is lost in thought
                except OSError:
                    pass  # a pty ends with EIO
                self.assertEqual(program.wait(60), 0, locale)
                os.close(terminal)
                self.assertEqual(shown.decode().replace("\r\n", "\n"), expected, locale)

    def test_numbers_of_64_bits(self):
        size = 2**64 - 1
        answers = {fake.DRIVE_SHOW: fake.ok(fake.drive(size=size, identity=2**63))}
        value = ask(answers, "-o", "json", "drive", "show", "d").json()
        self.assertEqual((value["size"], value["id"]), (size, 2**63))

    def test_words_of_a_newer_daemon(self):
        answers = {
            fake.DRIVE_SHOW: fake.ok(fake.drive(durability=9)),
            fake.BITMAP_SHOW: fake.ok(fake.bitmap(validity=9)),
        }
        result = ask(answers, "-o", "json", "bitmap", "show", "d/n")
        # Worse than the library or we can tell is unknown, or refused: never exact.
        if result.code == 0:
            self.assertEqual(result.json()["validity"], "unknown")
        else:
            self.assertEqual((result.code, result.out), (1, ""))

    def test_path_is_made_absolute(self):
        with tempfile.TemporaryDirectory() as directory:
            directory = os.path.realpath(directory)
            for path, sent in {
                "disk.raw": f"{directory}/disk.raw",
                "./a/../disk.raw": f"{directory}/a/../disk.raw",
                "/dev/vg0/lv": "/dev/vg0/lv",
            }.items():
                result = ask(
                    {fake.DRIVE_ADD: fake.ok(fake.drive())},
                    "drive", "add", "d", "--path", path, cwd=directory,
                )  # fmt: skip
                self.assertEqual(result.code, 0, result)
                self.assertIn(fake.string(sent), result.daemon.sent(fake.DRIVE_ADD)[0])


class Maps(unittest.TestCase):
    def map(self, form, replies):
        return ask({fake.MAP: replies}, "map", "d/n", "-o", form)

    def test_whole(self):
        replies = fake.map_replies([(0, 65536), (131072, 65536)])
        self.assertEqual(
            self.map("json", replies).json(),
            [
                {"offset": 0, "length": 65536, "type": 1, "description": "dirty"},
                {"offset": 65536, "length": 65536, "type": 0, "description": "clean"},
                {"offset": 131072, "length": 65536, "type": 1, "description": "dirty"},
                {"offset": 196608, "length": 851968, "type": 0, "description": "clean"},
            ],
        )
        head, *runs, end = self.map("ndjson", replies).lines()
        self.assertEqual(head["schema_version"], 1)
        self.assertEqual(
            {key: head[key] for key in ("drive", "name", "size", "granularity", "validity", "reason")},
            {"drive": "d", "name": "n", "size": 1 << 20, "granularity": 65536, "validity": "exact",
             "reason": ""},
        )  # fmt: skip
        self.assertEqual(
            runs,
            [
                {"byte_offset": 0, "size_bytes": 65536},
                {"byte_offset": 131072, "size_bytes": 65536},
            ],
        )
        packed = b"".join(struct.pack("<QQ", r["byte_offset"], r["size_bytes"]) for r in runs)
        self.assertEqual(end, {"complete": True, "tuples": 2, "crc32c": fake.crc32c(packed)})

    def test_unknown(self):
        replies = fake.map_replies([(0, 1 << 20)], validity=fake.UNKNOWN, reason="lost \x1b[2J it")
        for form in ("human", "json", "ndjson"):
            result = self.map(form, replies)
            self.assertEqual(result.code, 6)
            self.assertRegex(result.err, r"\Abitmapctl: map: [^\n\x1b]*d/n is unknown[^\n\x1b]*\n\Z")
        self.assertEqual(
            self.map("json", replies).json(),
            [{"offset": 0, "length": 1 << 20, "type": 1, "description": "dirty"}],
        )
        self.assertEqual(self.map("ndjson", replies).lines()[0]["validity"], "unknown")

    def check_incomplete(self, replies):
        for form in ("json", "ndjson"):
            result = self.map(form, replies)
            self.assertIn(result.code, (1, 3), result)
            self.assertNotEqual(result.err, "")
            if form == "json":
                with self.assertRaises(json.JSONDecodeError):
                    result.json()
            else:
                self.assertNotIn("complete", result.out)
        self.assertIn(self.map("human", replies).code, (1, 3))

    def test_cut_short(self):
        head, page, end = fake.map_replies([(0, 65536)])
        self.check_incomplete([head, page, Fake.CLOSE])
        self.check_incomplete([head, Fake.CLOSE])
        self.check_incomplete([head, page, *fake.refusal(15)])
        self.check_incomplete([head, end])
        self.check_incomplete([head, page, page, end])
        self.check_incomplete([head, page, (0, 0, fake.map_end([(0, 65536)], crc=1))])
        self.check_incomplete([page, end])

    def test_runs_that_cannot_be(self):
        for pairs in (
            [(65536, 65536), (0, 65536)],
            [(0, 65536), (0, 65536)],
            [(0, 0)],
            [(1 << 20, 1)],
            [(0, 1 << 21)],
            [(65536, 2**64 - 1)],
        ):
            self.check_incomplete(fake.map_replies(pairs))

    def test_write_error(self):
        with Fake({fake.MAP: fake.map_replies([(0, 65536)])}) as daemon, open("/dev/full", "w") as f:
            for form in ("human", "json", "ndjson"):
                done = subprocess.run(
                    [BITMAPCTL, "-s", daemon.path, "-o", form, "map", "d/n"],
                    stdout=f, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60,
                )  # fmt: skip
                self.assertEqual(done.returncode, 1)
                self.assertIn(b"No space left", done.stderr)


class Marks(unittest.TestCase):
    def ranges(self, daemon):
        found = []
        for payload in daemon.sent(fake.MARK):
            _, first_id, count = struct.unpack_from("<QQI", payload)
            for i in range(count):
                found.append((*struct.unpack_from("<QQ", payload, 20 + 16 * i), first_id))
        return found

    def test_one(self):
        result = ask({fake.MARK: fake.ok()}, "mark", "d", "4K", "1")
        self.assertEqual((result.code, result.out, result.err), (0, "", ""))
        # Id 0: settled at once.
        self.assertEqual(self.ranges(result.daemon), [(4096, 1, 0)])
        result = ask({fake.MARK: fake.ok()}, "mark", "d", "4K", "1", "-o", "json")
        self.assertEqual(result.json(), {"schema_version": 1, "marked": 1})

    def test_many_go_in_few_frames(self):
        lines = "".join(f"{i} 1\n" for i in range(100000))
        result = ask({fake.MARK: fake.ok()}, "mark", "d", "--stdin", "-ojson", stdin=lines)
        self.assertEqual(result.json(), {"schema_version": 1, "marked": 100000})
        self.assertEqual([r[0] for r in self.ranges(result.daemon)], list(range(100000)))
        self.assertLess(len(result.daemon.sent(fake.MARK)), 100)

    def test_a_line_does_not_wait_for_the_next(self):
        with Fake({fake.MARK: fake.ok()}) as daemon:
            with spawn(
                [BITMAPCTL, "-s", daemon.path, "mark", "d", "--stdin"],
                stdin=subprocess.PIPE, env=ENVIRONMENT,
            ) as program:  # fmt: skip
                for i in range(3):
                    program.stdin.write(b"%d 1\n" % i)
                    program.stdin.flush()
                    while len(daemon.sent(fake.MARK)) <= i:
                        self.assertIsNone(program.poll())
                program.stdin.close()
                self.assertEqual(program.wait(60), 0)
        self.assertEqual([r[:2] for r in self.ranges(daemon)], [(0, 1), (1, 1), (2, 1)])

    def test_hold(self):
        result = ask({fake.MARK: fake.ok()}, "mark", "d", "--stdin", "--hold", stdin="0 1\n5 5\n")
        self.assertEqual((result.code, result.err), (0, ""))
        self.assertTrue(all(first_id > 0 for *_, first_id in self.ranges(result.daemon)))
        self.assertEqual(result.daemon.sent(fake.SETTLE), [])

    def test_bad_line(self):
        for bad, code in {
            "x\n": 2, "\n": 2, "1\n": 2, "1 2 3\n": 2, "1 0\n": 2, "\x00 1\n": 2, "1 2\0\n": 2,
            "5" * 3000 + "\n": 2, "5" * 3000: 2, "1 \xff\n": 2, "1M 1\n": 1, "0 1025K\n": 1,
            "18446744073709551615 2\n": 1,
        }.items():  # fmt: skip
            with self.subTest(bad):
                stdin = "0 512\n512 512\n" + bad + "1024 1\n"
                result = ask({fake.MARK: fake.ok()}, "mark", "d", "--stdin", "-ojson", stdin=stdin)
                self.assertEqual((result.code, result.out), (code, ""))
                self.assertRegex(result.err, r"\Abitmapctl: mark: line 3: [^\n]+\n\Z")
                # What came before was acknowledged, what came after was not sent.
                self.assertEqual(
                    [r[:2] for r in self.ranges(result.daemon)], [(0, 512), (512, 512)]
                )

    def test_last_line_needs_no_end(self):
        result = ask({fake.MARK: fake.ok()}, "mark", "d", "--stdin", stdin="0 1\n2 1")
        self.assertEqual(result.code, 0)
        self.assertEqual([r[:2] for r in self.ranges(result.daemon)], [(0, 1), (2, 1)])

    def test_nothing_to_mark(self):
        result = ask({}, "mark", "d", "--stdin", "-o", "json", stdin="")
        self.assertEqual(result.json(), {"schema_version": 1, "marked": 0})

    def test_refused_frame_is_named_and_goes_before_a_bad_line(self):
        result = ask(
            {fake.MARK: fake.refusal(8, "not you")}, "mark", "d", "--stdin", stdin="0 1\n2 1\nx\n"
        )
        self.assertEqual((result.code, result.out), (7, ""))
        self.assertRegex(result.err, r"\Abitmapctl: mark: lines 1 to 2: [^\n]*not you[^\n]*\n\Z")

    def test_lost_connection(self):
        result = ask({fake.MARK: None}, "mark", "d", "--stdin", "-ojson", stdin="0 1\n")
        self.assertIn(result.code, (1, 3))
        self.assertEqual(result.out, "")
        self.assertEqual(result.err.count("\n"), 1)

    def test_frames_in_flight_are_bounded(self):
        """The daemon reads, but answers no mark: bitmapctl must stop reading lines."""
        with Fake({fake.MARK: []}) as daemon:
            with spawn(
                [BITMAPCTL, "-s", daemon.path, "mark", "d", "--stdin"],
                stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
            ) as program:  # fmt: skip
                try:
                    wrote = 0
                    stdin = program.stdin.fileno()
                    os.set_blocking(stdin, False)
                    while select.select([], [stdin], [], 0.5)[1]:
                        wrote += os.write(stdin, b"0 1\n" * 256)
                        # 72 frames of 8192 lines, the buffer, the pipe.
                        self.assertLess(wrote, 3 << 20)
                    # What one read(2) gives is sent: up to 8 frames, begun below the bound of 64.
                    self.assertLess(len(daemon.sent(fake.MARK)), 64 + 8)
                finally:
                    program.kill()


if __name__ == "__main__":
    unittest.main()
