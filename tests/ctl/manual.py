# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual page names the same commands, operands and options as --help does."""

import os
import re
import struct
import unittest

import fake
from program import commands, help_of, options

MANUAL = os.environ["BITMAPCTL_MAN"]


def words_of(macros):
    """The text of a line of mdoc macros, as far as synopses need them."""
    text = ""
    join = True
    option = False
    closing = []
    for token in macros.split():
        if token in ("Cm", "Ar"):
            option = False
        elif token == "Fl":
            option = True
        elif token == "Ns":
            join = True
        elif token in ("Oo", "Op", "Po"):
            text += ("" if join else " ") + ("(" if token == "Po" else "[")
            if token == "Op":
                closing.append("]")
            join = True
        elif token in ("Oc", "Pc"):
            text += "]" if token == "Oc" else ")"
            join = False
        else:
            text += ("" if join else " ") + ("-" if option else "") + token
            join = option = False
    return (text + "".join(closing)).replace(" ...", "...")


def sections():
    """{words: (synopsis, mdoc text)} of every command in the manual."""
    found = {}
    current = None
    with open(MANUAL, encoding="utf-8") as file:
        text = file.read()
    known = sorted(commands(), key=len, reverse=True)
    for line in text.splitlines():
        if line.startswith(".It Cm "):
            synopsis = words_of(line[len(".It ") :])
            name = next(
                (c for c in known if synopsis == c or synopsis.startswith(c + " ")), synopsis
            )
            assert name not in found, f"{name} is there twice"
            current = found[name] = [synopsis[len(name) :].strip(), ""]
        elif line.startswith((".Ss", ".Sh")):
            current = None
        if current:
            current[1] += line + "\n"
    return found


class Manual(unittest.TestCase):
    def test_same_commands_with_same_synopsis(self):
        self.maxDiff = None
        manual = {name: synopsis for name, (synopsis, _) in sections().items()}
        self.assertEqual(manual, {name: text.lower() for name, text in commands().items()})

    def test_every_option_is_explained(self):
        for name, (_, text) in sections().items():
            for option in options(help_of(name)):
                with self.subTest(f"{name} --{option}"):
                    # Beside the synopsis.
                    body = text.split("\n", 1)[1]
                    self.assertRegex(body, rf"(?m)^\.(It )?Fl -{option}\b")

    def test_no_option_that_is_not_there(self):
        everything = "".join(help_of(name) for name in commands())
        with open(MANUAL, encoding="utf-8") as file:
            for option in re.findall(r"Fl -([a-z][a-z-]*)", file.read()):
                self.assertRegex(everything, rf"--{option}\b")

    def test_example_of_a_map_is_true(self):
        with open(MANUAL, encoding="utf-8") as file:
            text = file.read()
        packed = b"".join(
            struct.pack("<QQ", int(offset), int(length))
            for offset, length in re.findall(
                r'^\{"byte_offset":(\d+),"size_bytes":(\d+)\}$', text, re.M
            )
        )
        tuples, crc = re.search(r'"complete":true,"tuples":(\d+),"crc32c":(\d+)\}', text).groups()
        self.assertEqual((int(tuples), int(crc)), (len(packed) // 16, fake.crc32c(packed)))

    def test_options_everywhere(self):
        with open(MANUAL, encoding="utf-8") as file:
            text = file.read()
        for option in re.findall(r"^  (?:-.,|   ) --([a-z-]+)", help_of("flush"), re.M):
            self.assertRegex(text, rf"(?m)^\.It Fl (. , )?-{option}\b")


if __name__ == "__main__":
    unittest.main()
