# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small ext4 for the daemon's state alone, and what may befall it."""

import contextlib
import fcntl
import os
import struct

from programs import run

TOOLS = ("losetup", "mkfs.ext4")
MIB = 1 << 20
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
EXT4_IOC_SHUTDOWN, SHUTDOWN_NOLOGFLUSH = 0x8004587D, 2


def fill(path):
    """A file that takes all there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (MIB, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())


class SmallDisk:
    def __init__(self, stack, mebibytes=64, image="small"):
        self.stack = stack
        self.loop = stack.attach_loop(stack.make_raw(image, mebibytes * MIB))
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.loop)
        self.mount()
        stack.state_directory = self.mountpoint

    def path(self, name):
        return os.path.join(self.mountpoint, name)

    def mount(self):
        self.mountpoint = self.stack.mount(self.loop, "small.mnt")

    def mount_again(self):
        """What was cached and never written is gone."""
        self.stack.umount(self.mountpoint)
        self.mount()

    def fill(self):
        fill(self.path("filler"))

    def make_room(self):
        os.unlink(self.path("filler"))

    @contextlib.contextmanager
    def immutable(self, *names):
        """Files that nobody can write, also those who have them open."""
        self.set_immutable(names, FS_IMMUTABLE_FL)
        try:
            yield
        finally:
            self.set_immutable(names, 0)

    def set_immutable(self, names, wanted):
        for name in names:
            with open(self.path(name), "rb") as file:
                flags, = struct.unpack("l", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))
                flags = flags & ~FS_IMMUTABLE_FL | wanted
                fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("l", flags))

    @contextlib.contextmanager
    def frozen(self):
        """Whoever writes waits."""
        run("fsfreeze", "--freeze", self.mountpoint)
        try:
            yield
        finally:
            run("fsfreeze", "--unfreeze", self.mountpoint)

    def become_read_only(self):
        """What ext4 does when it has found itself damaged.  There is no way back but to mount it
        again: no file system may be made read-only by hand while files are open for writing."""
        run("mount", "-o", "remount,errors=remount-ro", self.mountpoint)
        path = f"/sys/fs/ext4/{os.path.basename(self.loop)}/trigger_fs_error"
        with open(path, "w", encoding="ascii") as file:
            file.write("as a test wanted it")

    def lose_power(self):
        """Nothing is written any more, and what was not stable is lost."""
        fd = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NOLOGFLUSH))
        finally:
            os.close(fd)
