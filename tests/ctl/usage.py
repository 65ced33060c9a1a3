# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as a user meets it: help, wrong usage, and output that cannot be written."""

import os
import subprocess
import tempfile
import unittest

from program import BITMAPCTL, ENVIRONMENT, commands, help_of, options, run

COMMANDS = {
    "drive add", "drive list", "drive show", "drive set", "drive rename", "drive resize",
    "drive remove", "drive fence", "drive adopt",
    "bitmap create", "bitmap list", "bitmap show", "bitmap delete", "bitmap enable",
    "bitmap disable", "bitmap rename", "bitmap set", "bitmap clear", "bitmap merge",
    "checkpoint create", "checkpoint list", "checkpoint delete",
    "mark", "map", "verify", "transaction", "flush", "status", "reload",
    "container create", "container info", "container check",
    "container compact",
}  # fmt: skip

# Not built: neither in help nor taken.
ABSENT = [
    "export", "import", "metrics", "checkpoint show d c", "checkpoint rename d c e",
]  # fmt: skip

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"

# A good line for each command, and bad ones.
CASES = {
    "drive add": (
        "d --size 1",
        ["", "d", "d --path", "d --size", "d --size 1 e", "d --size 1 --path f", "d --size 0",
         "d --size -1", "d --size x", "d --size 1.5G", "d --size 99999P", "d --size 1B",
         "d --path=", "a@b --size 1", "/d --size 1", "d/ --size 1", "a//b --size 1",
         "d --size 1 --durability none", "d --size 1 --durability", "d --size 1 --granularity 1000",
         "d --size 1 --granularity 256", "d --size 1 --granularity 4G", "d --size 1 --force",
         "d\x01 --size 1", "d\x7f --size 1", "x" * 256 + " --size 1", "-- -d --size 1"],
    ),
    "drive list": ("", ["d", "--size 1", "-o xml", "-o", "-s"]),
    "drive show": ("d", ["", "d e", "@", "d --all"]),
    "drive set": ("d --durability process-crash",
                  ["", "d", "--granularity 64K", "d --granularity 0", "d e --granularity 64K"]),
    "drive rename": ("d e", ["", "d", "d e f", "d e@", "d --"]),
    "drive resize": ("d --size 1G", ["", "d", "d 1G", "--size 1G", "d --size 1GB", "d --size 0"]),
    "drive remove": ("d --force", ["", "d e", "d --force=yes", "--force"]),
    "drive fence": ("d --writer t", ["", "d e", "d --writer", "d --writer a@b", "d --writer="]),
    "drive adopt": ("vg0/d", ["", "d e", "d@", "d --force"]),
    "checkpoint create": ("daily d vg0/e",
                          ["", "c", "c@d d", f"c@{UUID} d", "a/b d", "c d@", "c d d", "c d e d",
                           "-- -c d", "c d --force"]),
    "checkpoint list": ("vg0/d", ["d e", "@", "--all"]),
    "checkpoint delete": (f"vg0/d c@{UUID}",
                          ["", "d", "d c e", "d/ c", "d a/b", "d c@", "d @", f"d @{UUID}",
                           f"d c@{UUID}0", f"d c@{UUID[:-1]}", "d c@daily"]),
    "bitmap create": ("d/n --disabled",
                      ["", "d", "d/", "/n", "d/n/", "d/n m", "d/n --granularity 3", "d/n --size 1"]),
    "bitmap list": ("", ["d e", "@", "--disabled"]),
    "bitmap show": ("d/n", ["", "d", "d/n d/m"]),
    "bitmap delete": ("d/n", ["", "d", "d/n d/m", "d/n --force"]),
    "bitmap enable": ("d/n", ["", "d", "d/n d/m"]),
    "bitmap disable": ("d/n", ["", "d", "d/n d/m"]),
    "bitmap rename": ("d/n m", ["", "d/n", "d m", "d/n d/m", "d/n m o"]),
    "bitmap set": ("d/n 0 1",
                   ["", "d/n", "d/n 0", "d/n 0 0", "d/n 0 1 2", "d/n x 1", "d/n 0 x", "d/n -1 1",
                    "d/n 0 -1", "d/n +1 1", "d/n 0x1 1", "d/n 18446744073709551616 1", "d 0 1",
                    "d/n --all"]),
    "bitmap clear": ("d/n --all",
                     ["", "d/n", "d/n 0", "d/n 0 0", "d/n 0 1 2", "d/n 0 1 --all", "--all"]),
    "bitmap merge": ("d/a d/b d/c", ["", "d/a", "d/a e/b", "d/a d/b e/c", "a b"]),
    "mark": ("d 0 1", ["", "d", "d 0", "d 0 0", "d 0 1 2", "d 0 1 --stdin", "d --hold",
                       "d 0 1 --hold", "--stdin", "d --stdin=x", "d 1e6 1"]),
    "map": (f"vg0/d --since c@{UUID} --until e",
            ["", "d", "d/n d/m", "@/n", "d --until c", "d/n --until c", "d --since", "d/ --since c",
             "d --since c --until", "d --since a/b", "d --since c@", "d --since c --until c@x",
             "--since c", "d e --since c"]),
    "verify": ("vg0/d --since c --against f --drive-path g",
               ["", "d", "d --since c", "d --against f", "d --since c --against", "d --since= "
                "--against f", "d --since c --against=", "d --since c --against f --drive-path=",
                "d --since c --against f --until e", "d/ --since c --against f",
                "d e --since c --against f"]),
    "transaction": (None, ["x", "--stdin", "--force"]),
    "flush": ("", ["d", "--all"]),
    "status": ("", ["d", "--force"]),
    "reload": ("", ["d", "--stdin"]),
    "container create": (None, ["", "f g", "f --cluster-size 256", "f --cluster-size 4M",
                                "f --cluster-size 65537", "f --cluster-size", "f --granularity 64K"]),
    "container info": (None, ["", "f g", "f --cluster-size 64K"]),
    "container check": (None, ["", "f g", "f --repair=x", "f -o xml"]),
    "container compact": (None, ["", "f g", "f --repair", "f --force"]),
}  # fmt: skip


class Help(unittest.TestCase):
    def test_lists_exactly_what_is_built(self):
        self.assertEqual(set(commands()), COMMANDS)

    def test_every_command_explains_itself(self):
        for command, synopsis in commands().items():
            with self.subTest(command):
                text = help_of(command)
                usage = f"usage: bitmapctl [OPTION...] {command} {synopsis}".strip()
                self.assertEqual(text.splitlines()[0], usage)
                for option in options(text):
                    self.assertIn(f"--{option}", synopsis)
        self.assertEqual(run("-h", "drive", "add").out, help_of("drive add"))

    def test_every_noun_lists_its_verbs(self):
        everything = help_of()
        for noun in {command.split()[0] for command in COMMANDS}:
            text = help_of(noun)
            for command in COMMANDS:
                line = f"\n  {command}"
                if " " in command and noun in (c.split()[0] for c in COMMANDS if " " in c):
                    self.assertEqual(line in text, command.split()[0] == noun, command)
                self.assertIn(line, everything)

    def test_version(self):
        result = run("--version")
        self.assertRegex(result.out, r"\Abitmapctl [0-9]+\.[0-9]+\.[0-9]+\n\Z")
        self.assertEqual((result.code, result.err), (0, ""))


class Usage(unittest.TestCase):
    def check(self, words, code=2):
        result = run(*words)
        self.assertEqual(result.code, code, (words, result))
        self.assertEqual(result.out, "", words)
        self.assertRegex(result.err, r"\Abitmapctl: [^\n]+; see 'bitmapctl[^\n]* --help'\n\Z", words)

    def test_every_command_has_cases(self):
        self.assertEqual(set(CASES), COMMANDS)

    def test_bad_lines(self):
        for command, (_, lines) in CASES.items():
            code = 1 if command == "container check" else 2
            for line in lines:
                self.check(command.split() + [w for w in line.split(" ") if w], code)
            self.check(["--no-such-option", *command.split()], code)

    def test_good_lines_get_as_far_as_the_daemon(self):
        for command, (line, _) in CASES.items():
            if line is not None:
                result = run(*command.split(), *line.split())
                self.assertEqual((result.code, result.out), (3, ""), (command, result))
                self.assertRegex(result.err, rf"\Abitmapctl: {command}: [^\n]+\n\Z")

    def test_no_command(self):
        self.check([])
        self.check(["--"])
        self.check(["-o", "json"])
        for noun in ("drive", "bitmap", "checkpoint", "container"):
            self.check([noun])
        self.check(["dirve", "list"])
        self.check(["drive", "lits"])
        self.check(["drive", "lits", "--help"])

    def test_what_is_not_built_is_not_there(self):
        text = "".join(help_of(command) for command in COMMANDS)
        for line in ABSENT:
            self.check(line.split())
        for word in ("export", "import", "metrics"):
            self.assertNotIn(word, text)

    def test_diagnostics_are_one_line_whatever_the_words(self):
        self.check(["drive", "show", "a\nb"])
        self.check(["drive", "show", b"\xff\x1b[2J"])
        self.check(["drive", "show", "\u202ea b"])
        result = run("dr\x1b[31mive\n")
        self.assertNotIn("\x1b", result.err)

    def test_socket_path_that_cannot_be(self):
        self.assertEqual(run("-s", "/" + "x" * 300, "status").code, 2)

    def test_socket_that_may_not_be_reached(self):
        # Root may go everywhere, unless it gives that up (setpriv is in util-linux).
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if os.geteuid() != 0:
            prefix = []
        with tempfile.TemporaryDirectory() as directory:
            closed = os.path.join(directory, "closed")
            os.mkdir(closed, 0)
            done = subprocess.run(
                [*prefix, BITMAPCTL, "-s", os.path.join(closed, "sock"), "status"],
                env=ENVIRONMENT, capture_output=True, timeout=60, text=True,
            )  # fmt: skip
        self.assertEqual(done.returncode, 7, done)


class Output(unittest.TestCase):
    def run_to(self, stdout, *words, close=False):
        def preexec():
            if close:
                os.close(1)

        return subprocess.run(
            [BITMAPCTL, *words], stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT,
            timeout=60, text=True, preexec_fn=preexec,
        )  # fmt: skip

    def test_full_device(self):
        for words in (["--help"], ["--version"], ["drive", "add", "--help"]):
            with open("/dev/full", "w") as full:
                done = self.run_to(full, *words)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"\Abitmapctl: cannot write to standard output: No space[^\n]*\n\Z")

    def test_closed_pipe(self):
        reader, writer = os.pipe()
        os.close(reader)
        done = self.run_to(writer, "--help")
        os.close(writer)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Abitmapctl: cannot write to standard output: Broken pipe\n\Z")

    def test_closed_descriptor(self):
        done = self.run_to(None, "--help", close=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write to standard output", done.stderr)

    def test_nothing_to_write_is_no_failure(self):
        with open("/dev/full", "w") as full:
            self.assertEqual(self.run_to(full, "status").returncode, 3)


if __name__ == "__main__":
    unittest.main()
