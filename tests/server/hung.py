# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory in which looking at anything hangs: a FUSE file system whose server never answers."""

import ctypes
import os
import select
import struct

MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
FUSE_INIT = 26
CAP_SYS_ADMIN = 1 << 21


class Hung:
    """Mounted over the directory, which has to be there; what was in it is back in the end."""

    def __init__(self, directory):
        self.directory = directory.encode()
        self.libc = ctypes.CDLL(None, use_errno=True)

    @staticmethod
    def possible():
        with open("/proc/self/status", encoding="ascii") as status:
            capabilities = next(int(line.split()[1], 16) for line in status if "CapEff" in line)
        if capabilities & CAP_SYS_ADMIN and os.access("/dev/fuse", os.R_OK | os.W_OK):
            return True
        assert os.environ.get("CI") != "true", "mounting needs root, and FUSE"
        print("no FUSE, or not root: skipped")
        return False

    def __enter__(self):
        self.server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % self.server
        if self.libc.mount(b"hung", self.directory, b"fuse", MS_NOSUID | MS_NODEV, options) < 0:
            os.close(self.server)
            raise OSError(ctypes.get_errno(), "mount")
        # Until this is answered nobody's request would come to us.
        request = os.read(self.server, 1 << 17)
        _, operation, unique = struct.unpack_from("<IIQ", request)
        assert operation == FUSE_INIT, operation
        reply = struct.pack("<IIIIHHI", 7, 23, 0, 0, 1, 1, 4096).ljust(64, b"\0")
        os.write(self.server, struct.pack("<IiQ", 16 + len(reply), 0, unique) + reply)
        return self

    def somebody_waits(self, seconds):
        return bool(select.select([self.server], [], [], seconds)[0])

    def __exit__(self, *_):
        os.close(self.server)  # whoever waits gets an error
        assert self.libc.umount2(self.directory, MNT_DETACH) == 0
