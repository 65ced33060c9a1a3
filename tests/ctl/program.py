# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs bitmapctl for the scripts beside this file."""

import functools
import json
import os
import re
import subprocess
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from programs import accepts, spawn  # noqa: E402, F401

COMMAND_TIMEOUT_S = 60
BITMAPCTL = os.environ["BITMAPCTL"]
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    # Nobody listens here: what gets past the parser ends with 3.
    "BITMAPD_SOCKET": "/nonexistent/bitmapd.sock",
    # A file that a script expects to fail must not hide a sanitizer's finding behind its code.
    "ASAN_OPTIONS": "exitcode=99",
    "UBSAN_OPTIONS": "exitcode=99",
}


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def json(self):
        return json.loads(self.out)

    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self):
        return f"exit {self.code}, stdout {self.out!r}, stderr {self.err!r}"


def run(*words, stdin="", socket=None, cwd=None):
    """bitmapctl with these words; text in, text out."""
    environment = dict(ENVIRONMENT)
    if socket:
        environment["BITMAPD_SOCKET"] = socket
    if isinstance(stdin, str):
        stdin = stdin.encode()
    done = subprocess.run(
        [BITMAPCTL, *words], input=stdin, env=environment, cwd=cwd, capture_output=True, timeout=COMMAND_TIMEOUT_S
    )
    done.stdout = done.stdout.decode()
    done.stderr = done.stderr.decode()
    return Result(done)


@functools.lru_cache(None)
def help_of(words=""):
    """The help text of a command, of a noun, or of all."""
    result = run(*words.split(), "--help")
    assert (result.code, result.err) == (0, ""), result
    return result.out


@functools.lru_cache(None)
def commands():
    """{words: synopsis} of every command, from the general help."""
    text = help_of()
    block = re.search(r"^Commands:\n(.*?)\n\n", text, re.S | re.M).group(1)
    found = {}
    for line in block.splitlines():
        match = re.fullmatch(r"  ([a-z][a-z ]*[a-z])((?: [A-Z(\[-].*)?)", line)
        if match:
            found[match.group(1)] = match.group(2).strip()
    return found


def options(text):
    """The long options that a help text explains under "Options:"."""
    block = re.search(r"^Options:\n(.*?)\n\n", text, re.S | re.M)
    return re.findall(r"^  .{4}--([a-z-]+)", block.group(1), re.M) if block else []
