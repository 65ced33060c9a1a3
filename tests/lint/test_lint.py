#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The linters on small trees: each finds what it is for, and nothing in a good tree."""

import contextlib
import json
import os
import shutil
import tempfile
import unittest

import includes
import lint
import manual
import sources
import style
from tree import Tree

HEAD = "/* SPDX-License-Identifier: LGPL-2.1-or-later */\n"
ESSAY = "/*\n * What it is,\n * and why.\n */\n"


class LintTest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="bitmapd-test-lint-")
        self.addCleanup(shutil.rmtree, self.root)

    def tree(self, files):
        for path, text in files.items():
            full = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(text)
        return Tree(self.root, os.path.join(self.root, "build"), files)


class IncludesTest(LintTest):
    def check(self, files, compiled):
        """The findings when a build in build/ compiles some of the files."""
        tree = self.tree(files)
        os.makedirs(tree.build, exist_ok=True)
        # CMake writes absolute names; relative ones to the directory are allowed as well.
        commands = [{"directory": tree.build, "file": os.path.join(self.root, path)}
                    for path in compiled[1:]]
        commands += [{"directory": tree.build, "file": "../" + path} for path in compiled[:1]]
        with open(os.path.join(tree.build, "compile_commands.json"), "w", encoding="utf-8") as file:
            json.dump(commands, file)
        return includes.check(tree)

    def includes(self, path, target):
        """The findings when one file includes another that exists."""
        return self.check({path: f'#include "{target}"\n', target: ""}, [path])

    def test_down(self):
        for path, target in (
                ("proto/frame.c", "proto/base/error.h"),
                ("config/config.c", "config/schema.h"),
                ("daemon/bitmap/a.c", "proto/base/error.h"),
                ("daemon/drive/a.c", "daemon/container/container.h"),
                ("daemon/server/a.c", "proto/message.h"),
                ("daemon/app/a.c", "config/config.h"),
                ("client/ctl/a.c", "proto/base/size.h"),
                ("client/ctl/container.c", "daemon/container/container.h"),
                ("tests/drive/a.c", "daemon/drive/internal.h"),
                ("tests/drive/a.c", "tests/common/a.h"),
                ("tests/drive/a.c", "tests/drive/a.h"),
        ):
            self.assertEqual(self.includes(path, target), [], (path, target))

    def test_not_down(self):
        for path, target in (
                ("proto/base/error.c", "proto/frame.h"),
                ("proto/frame.c", "daemon/base/log.h"),
                ("config/config.c", "proto/frame.h"),
                ("config/config.c", "daemon/base/log.h"),
                ("daemon/base/log.c", "config/config.h"),
                ("daemon/bitmap/a.c", "daemon/container/container.h"),
                ("daemon/container/a.c", "daemon/catalog/catalog.h"),
                ("daemon/drive/a.c", "daemon/server/a.h"),
                ("daemon/drive/a.c", "proto/message.h"),
                ("daemon/server/a.c", "config/config.h"),
                ("client/ctl/a.c", "daemon/container/container.h"),
                ("client/ctl/container.c", "daemon/drive/model.h"),
                ("client/lib/a.c", "daemon/base/file.h"),
                ("client/nbdkit/a.c", "client/ctl/args.h"),
                ("daemon/drive/a.c", "tests/common/a.h"),
        ):
            folder = os.path.dirname(path)
            self.assertEqual(self.includes(path, target),
                             [f'{path}:1: {folder} must not include "{target}"'])

    def test_tests_apart(self):
        self.assertEqual(self.includes("tests/drive/a.c", "tests/server/a.h"),
                         ['tests/drive/a.c:1: a test of tests/drive includes "tests/server/a.h"'])

    def test_written_from_root(self):
        for target in ("../base/error.h", "proto/../config/config.h", "error.h", "/etc/a.h"):
            self.assertEqual(
                includes.check_include(self.tree({}), "proto/a.c", 3, target),
                [f'proto/a.c:3: "{target}" is not written from the project\'s root'])

    def test_missing(self):
        files = {"proto/a.c": '  #  include  "proto/b.h"\n#include <proto/c.h>\n'}
        self.assertEqual(self.check(files, ["proto/a.c"]),
                         ['proto/a.c:1: "proto/b.h" is not a file of the project'])

    def test_unknown_folder(self):
        self.assertEqual(self.includes("daemon/new/a.c", "proto/base/error.h"),
                         ["daemon/new/a.c:1: daemon/new is not in the table of layers"])

    def test_compiled(self):
        files = {"proto/a.c": "", "proto/b.c": "", "proto/base/c.c": "", "proto/d.h": ""}
        self.assertEqual(self.check(files, ["proto/a.c", "proto/base/c.c"]),
                         ["proto/b.c: no target compiles it"])


class SourcesTest(LintTest):
    def test_good(self):
        self.assertEqual(sources.check(self.tree({
            "a.c": HEAD + ESSAY + "int a;\n" * 595,
            "b.c": HEAD + "/* What it is, and why. */\n",
            "a.h": HEAD,
            "a.py": "#!/usr/bin/env python3\n# SPDX-License-Identifier: LGPL-2.1-or-later\n",
            "b.py": "# SPDX-License-Identifier: LGPL-2.1-or-later\n",
            "script": "#!/bin/sh\n# SPDX-License-Identifier: LGPL-2.1-or-later\n",
            "words.md": "TODOS and FIXMEs\n",
            "data.bin": "TO" "DO",
        })), [])

    def test_licence(self):
        for path, text in (("a.c", ESSAY), ("a.h", "\n" + HEAD), ("a.h", ""), ("b.py", "1\n"),
                           ("c.sh", "#!/bin/sh\nset -e\n"), ("script", "#!/bin/sh\n")):
            problems = sources.check_file(path, text)
            self.assertEqual(len(problems), 1, path)
            self.assertIn("does not begin with", problems[0])

    def test_essay(self):
        for text in (HEAD, HEAD + "int a;\nint b;\n", HEAD + "/* Too short. */\nint a;\n",
                     HEAD + "\n" + ESSAY, HEAD + "/* One */ int two, three, four, five; /* six */\n"):
            self.assertEqual(sources.check_file("a.c", text),
                             ["a.c:2: a .c file opens with what it is and why"])

    def test_length(self):
        self.assertEqual(sources.check_file("a.c", HEAD + ESSAY + "int a;\n" * 596),
                         ["a.c: 601 lines, more than 600: two topics?"])

    def test_later(self):
        for word in ("TO" "DO", "FIX" "ME", "XX" "X"):
            for path, text in (("a.h", HEAD + f"/* {word}: x */\n"), ("a.md", f"x\n{word} y\n")):
                self.assertEqual(sources.check_file(path, text),
                                 [f"{path}:2: {word}: do it or let it be"])


class ManualTest(LintTest):
    PAGE = (manual.SPDX + "\n.Dd November 22, 2026\n.Dt X 1\n.Os\n.Sh NAME\n.Nm x\n.Nd words\n"
            ".Sh DESCRIPTION\nMore.\n")

    def setUp(self):
        super().setUp()
        if not shutil.which("mandoc"):
            self.skipTest("no mandoc")

    def test_pages(self):
        self.assertEqual(manual.check(self.tree({"x/x.1": self.PAGE, "x/libx.so.0": "?"})), [])
        for before, after in ((".Nd words", ".Nonsense"), (".Sh NAME", ".Sh NAMES"),
                              (".Os", ".Os\n.Bl"), (manual.SPDX + "\n", "")):
            self.assertIn(before, self.PAGE)
            page = self.PAGE.replace(before, after)
            self.assertNotEqual(manual.check(self.tree({"x/x.1": page})), [], after)


class StyleTest(LintTest):
    def setUp(self):
        super().setUp()
        try:
            style.tool()
        except style.Missing as missing:
            self.skipTest(str(missing))

    def test_style(self):
        files = {".clang-format": "BasedOnStyle: LLVM\n", "x/a.c": "int a;\n", "b.h": "int  b;\n"}
        self.assertEqual(style.check(self.tree(files)), ["b.h: clang-format -i would change it"])

    def test_broken_settings(self):
        files = {".clang-format": "Nonsense: 1\n", "a.c": "int a;\n"}
        self.assertEqual(len(style.check(self.tree(files))), 1)


class MainTest(LintTest):
    def test_codes(self):
        # Not a checkout, so that the tree is walked.
        self.tree({"proto/a.h": "", "build/b.h": "", ".hidden/c.h": ""})
        self.assertEqual(Tree.find(self.root, "build").paths, ["proto/a.h"])
        with open(os.devnull, "w", encoding="utf-8") as null:
            with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
                self.assertEqual(lint.main(["manual", self.root, "build"]), 0)
                self.assertEqual(lint.main(["sources", self.root, "build"]), 1)
                self.assertEqual(lint.main(["nonsense", self.root, "build"]), 2)
                self.assertEqual(lint.main(["sources", self.root]), 2)
                self.assertEqual(lint.main([]), 2)


if __name__ == "__main__":
    unittest.main()
