# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's side of a drive: nbdkit with the plugin, its export as a file, a loop
device on that, ext4 on it; and how the guest notices that its disk has failed."""

import errno
import os
import re

from disks import sync_device
from programs import run, skip, wait_until

TOOLS = ("nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck")


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self):
        try:
            self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            skip(f"the kernel's log cannot be read: {error}")
        os.lseek(self.fd, 0, os.SEEK_END)

    def close(self):
        os.close(self.fd)

    def lines(self):
        found = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.EPIPE:  # some were overwritten before they were read
                    raise
                continue
            found.append(record.split("\n", 1)[0].split(";", 1)[-1])

    def errors(self, device):
        """Lines about a block device that tell of trouble."""
        name = re.compile(rf"\b{os.path.basename(device)}\b")
        return [
            line for line in self.lines()
            if name.search(line) and re.search("error|abort|warning|fail", line, re.I)]


class Guest:
    def __init__(self, stack, raw, drive):
        self.stack = stack
        self.raw = raw
        self.drive = drive
        self.kernel = KernelLog()
        stack.callback(self.kernel.close)
        self.nbdkit = self.fuse = self.loop = None
        self.mountpoint = None
        self.directories = 0

    # ---- The disk ----

    def start(self, *parameters):
        self.nbdkit = self.stack.start_nbdkit(self.raw, self.drive, *parameters)
        self.fuse, path = self.stack.start_fuse(self.nbdkit)
        self.loop = self.stack.attach_loop(path)
        self.kernel.lines()

    def stop(self):
        self.stack.detach_loop(self.loop)
        self.stack.stop_fuse(self.fuse)
        self.nbdkit.stop()

    def leave_dead_disk(self):
        """nbdkit has died: what the guest had not written yet is lost."""
        run("umount", "-l", self.mountpoint)
        self.mountpoint = None
        self.stack.detach_loop(self.loop)
        self.stack.stop_fuse(self.fuse)

    def expect_no_errors(self):
        """Neither the disk nor the mounted file system has failed."""
        found = self.kernel.errors(self.loop)
        if self.mountpoint:
            path = f"/sys/fs/ext4/{os.path.basename(self.loop)}/errors_count"
            with open(path, encoding="ascii") as file:
                count = int(file.read())
            if count:
                found.append(f"ext4 has counted {count} errors")
        assert not found, f"the guest has noticed: {found}"

    # ---- Its file system ----

    def make_file_system(self):
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.loop)

    def repair(self):
        code = run("e2fsck", "-fy", self.loop, check=False).returncode
        assert code in (0, 1), f"e2fsck: exit {code}"  # 1: has put right what was half done

    def mount(self):
        self.mountpoint = self.stack.mount(self.loop)

    def umount(self):
        self.stack.umount(self.mountpoint)
        self.mountpoint = None

    def settle(self):
        """Once it is unmounted: everything is stable, and the daemon knows."""
        sync_device(self.loop)
        wait_until(lambda: self.stack.unsettled(self.drive) == 0, "everything is settled")

    def newest_directory(self):
        return os.path.join(self.mountpoint, str(self.directories))

    def new_directory(self):
        """A name for one; the last one stays, older ones go."""
        old = os.path.join(self.mountpoint, str(self.directories - 1))
        if os.path.exists(old):
            run("rm", "-r", old)
        self.directories += 1
        return self.newest_directory()
