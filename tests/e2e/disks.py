# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD export as a file, loop devices on files, file systems on those; all let
go of with the test."""

import contextlib
import os

from programs import run, skip, wait_until


def sync_device(device):
    """Flushes a block device, its own cache too, which unmounting does not promise."""
    fd = os.open(device, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Disks(contextlib.ExitStack):
    """What a stack can do with disks."""

    def __init__(self):
        super().__init__()
        self.loops = set()

    def make_raw(self, name, size):
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def copy(self, raw, name="before"):
        """A copy of the drive as it is now."""
        path = self.path(name)
        run("cp", "--sparse=always", "--reflink=auto", raw, path)
        return path

    # ---- The export as a file ----

    def start_fuse(self, nbdkit):
        """Returns (process, path of the file)."""
        mountpoint = self.path("fuse")
        os.makedirs(mountpoint, exist_ok=True)
        path = os.path.join(mountpoint, "drive")
        process = self.start("nbdfuse", ["nbdfuse", path, nbdkit.uri])

        def ready():
            if not process.running() and "fuse" in process.text():
                skip(f"FUSE does not work here: {process.text().strip()}")
            process.check_running()
            return os.path.exists(path)

        wait_until(ready, "nbdfuse shows the drive")
        self.callback(run, "umount", "-l", mountpoint, check=False)
        return process, path

    def stop_fuse(self, process):
        run("umount", self.path("fuse"))
        process.wait()

    # ---- Loop devices ----

    def attach_loop(self, path):
        result = run("losetup", "--find", "--show", path, check=False)
        if result.returncode != 0:
            skip(f"no loop device: {result.stderr.strip()}")
        device = result.stdout.strip()
        self.loops.add(device)
        self.callback(self.let_go_of_loop, device)
        return device

    def let_go_of_loop(self, device):
        # One that was detached may be somebody else's by now.
        if device in self.loops:
            self.loops.remove(device)
            run("losetup", "-d", device, check=False)

    def detach_loop(self, device):
        path = self.backing_file(device)
        run("losetup", "-d", device)
        self.loops.remove(device)
        wait_until(lambda: self.backing_file(device) != path, f"{device} is free")

    @staticmethod
    def backing_file(device):
        """None when the loop device has none."""
        result = run("losetup", "--noheadings", "--output", "BACK-FILE", device, check=False)
        return result.stdout.strip() or None

    # ---- File systems ----

    def mount(self, device, name="mnt", options=()):
        mountpoint = self.path(name)
        os.makedirs(mountpoint, exist_ok=True)
        result = run("mount", *options, device, mountpoint, check=False)
        if result.returncode != 0:
            skip(f"mounting does not work here: {result.stderr.strip()}")
        self.callback(run, "umount", "-l", mountpoint, check=False)
        return mountpoint

    def umount(self, mountpoint):
        run("umount", mountpoint)
