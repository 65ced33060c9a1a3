# SPDX-License-Identifier: LGPL-2.1-or-later
"""A package tree, made of files that are installed here, and its unpacking by tar,
which makes everything stable now and then and notes how far it has got."""

import hashlib
import io
import os
import shutil
import tarfile

from programs import run

PACKAGES = ("linux-libc-dev", "cmake-data")  # what building needs: thousands of small files
ELSEWHERE = "/usr/include"  # where there is no dpkg
BYTES_MAX = 10 << 20
RECORD_BYTES = 10240  # tar's
RECORDS_PER_SYNC = 40


def installed_files():
    if shutil.which("dpkg-query"):
        paths = run("dpkg-query", "--listfiles", *PACKAGES).stdout.splitlines()
    else:
        paths = [os.path.join(directory, name)
                 for directory, _, names in os.walk(ELSEWHERE) for name in names]
    return sorted(path for path in paths if os.path.isfile(path))


class Tree:
    def __init__(self, path):
        self.path = path
        self.files = []  # (name, SHA-256, offset in the tar file at which it ends)
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for source in installed_files():
                with open(source, "rb") as file:
                    data = file.read()
                info = tarfile.TarInfo(source.lstrip("/"))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                self.files.append((info.name, hashlib.sha256(data).digest(), tar.offset))
                if tar.offset > BYTES_MAX:
                    break
        assert len(self.files) > 100, f"next to nothing is installed here: {len(self.files)} files"


def check_files(directory, files):
    for name, expected, _ in files:
        with open(os.path.join(directory, name), "rb") as file:
            assert hashlib.sha256(file.read()).digest() == expected, f"{name} has changed"


class Unpacking:
    """A tar that runs, into a directory that is made for it.  It writes the numbers of records
    that were read when everything was made stable, and errors."""

    def __init__(self, stack, tree, directory):
        os.mkdir(directory)
        self.tree = tree
        self.directory = directory
        self.process = stack.start(
            "tar",
            ["tar", "--extract", "--file", tree.path, "--directory", directory,
             f"--record-size={RECORD_BYTES}", f"--checkpoint={RECORDS_PER_SYNC}",
             '--checkpoint-action=exec=sync -f "$UNPACK_TO" && echo $TAR_CHECKPOINT'],
            env=dict(os.environ, UNPACK_TO=directory))

    def running(self):
        return self.process.running()

    def stable_files(self):
        """Those that were whole when everything was made stable for the last time."""
        records = [int(line) for line in self.process.text().splitlines()]
        # The last one had been read, and perhaps not been looked at.
        end = (records[-1] - 1) * RECORD_BYTES if records else 0
        return [entry for entry in self.tree.files if entry[2] <= end]

    def abandon(self):
        """The disk is gone: it ends with errors, unless it was done."""
        self.process.wait()

    def finish(self):
        """Without any error, and checked."""
        code = self.process.wait()
        text = self.process.text()
        assert code == 0 and all(line.isdigit() for line in text.splitlines()), f"tar: {code} {text}"
        run("sync", "-f", self.directory)
        check_files(self.directory, self.tree.files)
