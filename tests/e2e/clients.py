#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several clients at once, each on its own connection and writing at random places
of one drive, while the daemon is restarted and a bitmap is cleared under them:
what differs from a copy of that time is dirty."""

import random
import threading

import nbd
import stack as e2e

SIZE = 64 << 20
CLIENTS = 3
REQUESTS = 300


class Writer(threading.Thread):
    def __init__(self, path, seed):
        super().__init__()
        self.client = nbd.Client(path)
        self.random = random.Random(seed)
        self.done = 0
        self.error = None

    def step(self):
        length = self.random.choice((512, 4096, 65536, 200_000))
        offset = self.random.randrange(0, SIZE - length)
        flags = nbd.FUA if self.random.random() < 0.05 else 0
        kind = self.random.random()
        if kind < 0.8:
            self.client.write(offset, self.random.randbytes(length), flags)
        elif kind < 0.9:
            self.client.zero(offset, length, flags)
        elif kind < 0.95:
            self.client.trim(offset, length, flags)
        else:
            self.client.flush()
        self.done += 1

    def run(self):
        try:
            for _ in range(REQUESTS):
                self.step()
            self.client.close()
        except OSError as error:
            self.error = error


def start_writers(path, seed):
    writers = [Writer(path, seed + i) for i in range(CLIENTS)]
    for writer in writers:
        writer.start()
    e2e.wait_until(
        lambda: all(writer.done > 20 or writer.error for writer in writers), "clients write")
    return writers


def run_writers(path, seed, meanwhile):
    writers = start_writers(path, seed)
    meanwhile()
    for writer in writers:
        writer.join()
        assert writer.error is None, writer.error


def main():
    e2e.need_tools("nbdkit")
    seed = e2e.seed()
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        stack.start_daemon()
        stack.add_drive("vm1", raw, "4K")
        nbdkit = stack.start_nbdkit(raw, "vm1")

        stack.ctl("bitmap", "create", "vm1/whole", "--granularity", "64K")
        before = stack.copy(raw)
        run_writers(nbdkit.socket, seed, stack.restart_daemon)
        for bitmap in ("vm1/b", "vm1/whole"):
            assert stack.compare(before, raw, bitmap)["changed"] > 0

        # Cleared while clients write, and copied after that, while they still write: what differs
        # from the copy in the end was written after the clear, or was under way then.
        def clear_and_copy():
            stack.ctl("bitmap", "clear", "vm1/b", "--all")
            stack.copy(raw, "later")

        run_writers(nbdkit.socket, seed + CLIENTS, clear_and_copy)
        assert stack.compare(stack.path("later"), raw, "vm1/b")["changed"] > 0
        stack.compare(before, raw, "vm1/whole")

        # nbdkit is killed under them: what it had acknowledged, or not, is dirty all the same.
        stack.ctl("bitmap", "clear", "vm1/b", "--all")
        stack.copy(raw, "last")
        writers = start_writers(nbdkit.socket, seed + 2 * CLIENTS)
        nbdkit.kill()
        for writer in writers:
            writer.join()
            assert isinstance(writer.error, ConnectionError), writer.error
        nbdkit = stack.start_nbdkit(raw, "vm1")
        assert stack.compare(stack.path("last"), raw, "vm1/b")["changed"] > 0
        nbdkit.stop()


if __name__ == "__main__":
    main()
