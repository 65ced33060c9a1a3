#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real file system writes through the plugin while the daemon is stopped and killed:
afterwards every granule that changed since the bitmap was cleared is dirty."""

import hashlib
import os
import random
import threading
import time

import stack as e2e

SIZE = 192 << 20
GRANULARITY = 65536
FILE_BYTES = 300_000


class Guest(threading.Thread):
    """Writes, overwrites and deletes files until it is told to stop."""

    def __init__(self, directory, seed):
        super().__init__()
        self.directory = directory
        self.random = random.Random(seed)
        self.ended = threading.Event()
        self.written = 0
        self.sums = {}
        self.error = None

    def step(self):
        name = os.path.join(self.directory, f"file{self.random.randrange(60)}")
        if os.path.exists(name) and self.random.random() < 0.2:
            os.unlink(name)
            del self.sums[name]
            return
        data = self.random.randbytes(self.random.randrange(1, FILE_BYTES))
        with open(name, "wb") as file:
            file.write(data)
            if self.random.random() < 0.3:
                file.flush()
                os.fsync(file.fileno())
        self.sums[name] = hashlib.sha256(data).digest()
        self.written += 1

    def run(self):
        try:
            while not self.ended.is_set():
                self.step()
        except OSError as error:
            self.error = error

    def leave(self):
        self.ended.set()
        if self.is_alive():
            self.join()

    def end(self):
        self.leave()
        assert self.error is None, f"the guest's write failed: {self.error}"

    def check(self):
        for name, expected in self.sums.items():
            with open(name, "rb") as file:
                assert hashlib.sha256(file.read()).digest() == expected, f"{name} has changed"


def main():
    e2e.need_tools("nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck")
    e2e.need_root()
    seed = e2e.seed()

    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        stack.start_daemon()
        stack.add_drive("vm1", raw)
        nbdkit = stack.start_nbdkit(raw, "vm1")
        fuse, path = stack.start_fuse(nbdkit)
        loop = stack.attach_loop(path)
        e2e.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", loop)
        guest = Guest(stack.mount(loop), seed)
        stack.callback(guest.leave)
        guest.start()
        e2e.wait_until(lambda: guest.written >= 20 or guest.error, "the guest writes")
        guest.end()
        stack.umount(guest.directory)

        # Everything is stable and settled, so this is a point in time.
        e2e.sync_device(loop)
        e2e.wait_until(lambda: stack.unsettled("vm1") == 0, "everything is settled")
        stack.ctl("bitmap", "clear", "vm1/b", "--all")
        assert stack.dirty_ranges("vm1/b") == [], "dirty after everything was settled"
        before = stack.copy(raw)

        guest2 = Guest(stack.mount(loop), seed + 1)
        guest2.sums = guest.sums
        stack.callback(guest2.leave)
        guest2.start()
        e2e.wait_until(lambda: guest2.written >= 10 or guest2.error, "the guest writes")
        for end in (stack.daemon_stops, stack.daemon_dies) * 3:
            time.sleep(guest2.random.random() / 4)
            end()
            stack.start_daemon()
            written = guest2.written
            e2e.wait_until(
                lambda: guest2.written >= written + 5 or guest2.error, "the guest goes on")
        guest2.end()
        guest2.check()
        stack.umount(guest2.directory)
        e2e.sync_device(loop)
        e2e.wait_until(lambda: stack.unsettled("vm1") == 0, "everything is settled")
        stack.detach_loop(loop)
        stack.stop_fuse(fuse)
        nbdkit.stop()

        counts = stack.compare(before, raw, "vm1/b")
        assert counts["changed"] > 20, "the guest changed next to nothing"
        assert counts["dirty"] < counts["granules"], "all dirty proves nothing"
        # And from the container, after the daemon has read it again.
        stack.restart_daemon()
        assert stack.compare(before, raw, "vm1/b") == counts
        e2e.run("e2fsck", "-fn", raw)
        drive = stack.ctl_json("drive", "show", "vm1")
        assert drive["writers"] == 0 and drive["lost_writers"] == 0, drive
        bitmap = stack.ctl_json("bitmap", "show", "vm1/b")
        assert bitmap["validity"] == "exact", bitmap


if __name__ == "__main__":
    main()
