# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's files, for the linters."""

import os
import subprocess


class Tree:
    """A root, the paths in it (relative and with '/'), and the folder of a build of it."""

    def __init__(self, root, build, paths):
        self.root = root
        self.build = build
        self.paths = sorted(paths)

    @classmethod
    def find(cls, root, build):
        """What git tracks, or, outside a checkout, whatever is no build folder."""
        try:
            listing = subprocess.run(
                ["git", "-C", root, "ls-files", "-z", "--cached"],
                check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            paths = [os.fsdecode(path) for path in listing.split(b"\0") if path]
            # A file that is deleted but not yet committed as such is no file.
            return cls(root, build,
                       [path for path in paths if os.path.isfile(os.path.join(root, path))])
        except (OSError, subprocess.CalledProcessError):
            return cls(root, build, cls.walk(root))

    @staticmethod
    def walk(root):
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith((".", "build"))]
            for name in names:
                yield os.path.relpath(os.path.join(folder, name), root)

    def with_suffix(self, *suffixes):
        return [path for path in self.paths if path.endswith(suffixes)]

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
