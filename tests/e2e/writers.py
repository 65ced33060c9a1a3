# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several NBD clients that write to one drive at once, all they can, until told to
pause: small and large, across granules' borders, the same place again and again,
zeroes, trims, flushes, with several requests of each in flight.

What they write lies in a zone of the drive that moves when it is told to, so that
a place is not written again before long: a mark that was missed stays missed.
"""

import random
import threading

import nbd
import stack as e2e

SECTOR = 512
LENGTHS = (512, 512, 512, 4096, 4096, 10_000, 65536, 65536, 200_000, 1 << 20)
BORDERS = (4096, 65536)
IN_FLIGHT = 6
REMEMBERED = 8


class Writer(threading.Thread):
    def __init__(self, crowd, seed):
        super().__init__(daemon=True)
        self.crowd = crowd
        self.random = random.Random(seed)
        self.recent = []
        self.error = None
        self.idle = False

    def choose_range(self):
        rng = self.random
        begin, end = self.crowd.zone
        if self.recent and rng.random() < 0.35:
            offset, length = rng.choice(self.recent)
            if begin <= offset < end:
                return offset, length
        length = min(rng.choice(LENGTHS), end - begin)
        offset = rng.randrange(begin, end - length + 1)
        if rng.random() < 0.5:
            border = rng.choice(BORDERS)
            offset = offset // border * border - rng.choice((0, 1, SECTOR, length // 2, length))
        offset = min(max(offset, 0), self.crowd.size - length)
        self.recent = [*self.recent[1 - REMEMBERED:], (offset, length)]
        return offset, length

    def send(self, client):
        rng = self.random
        kind = rng.random()
        if kind < 0.04:
            client.send(nbd.FLUSH)
            return
        offset, length = self.choose_range()
        fua = nbd.FUA if rng.random() < 0.05 else 0
        if kind < 0.8:
            client.send(nbd.WRITE, offset, flags=fua, data=rng.randbytes(length))
        elif kind < 0.92:
            client.send(nbd.ZERO, offset, length, fua | rng.choice((0, nbd.NO_HOLE)))
        else:
            client.send(nbd.TRIM, offset, length, fua)

    def step(self, client):
        """Some requests, and their replies."""
        count = self.random.randrange(1, IN_FLIGHT + 1)
        for _ in range(count):
            self.send(client)
        for _ in range(count):
            _, error, _ = client.reply()
            if error:
                raise AssertionError(f"a request failed with errno {error}")
        with self.crowd.changed:
            self.crowd.requests += count

    def run(self):
        client = None
        try:
            while self.crowd.wait_for_turn(self):
                try:
                    client = client or nbd.Client(self.crowd.path)
                    self.step(client)
                except (ConnectionError, FileNotFoundError):
                    client = None
                    if not self.crowd.may_break:
                        raise
                    self.crowd.wait_for_server(self)
            if client:
                client.close()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error
        with self.crowd.changed:
            self.idle = True
            self.crowd.changed.notify_all()


class Crowd:
    """The writers of one drive, in one hand."""

    def __init__(self, path, size, seed, count=3, may_break=False):
        self.path = path
        self.size = size
        self.may_break = may_break
        self.random = random.Random(seed)
        self.changed = threading.Condition()
        self.requests = 0
        self.paused = False
        self.ended = False
        self.server_is_up = True
        self.zone = None
        self.move()
        self.writers = [Writer(self, seed + 1 + i) for i in range(count)]
        for writer in self.writers:
            writer.start()

    def move(self, share=0.12):
        length = int(self.size * share)
        begin = self.random.randrange(0, self.size - length + 1)
        if self.random.random() < 0.2:
            begin = self.size - length
        self.zone = begin, begin + length

    # ---- For the writers ----

    def wait_for_turn(self, writer):
        """False when it is time to leave."""
        with self.changed:
            while self.paused and not self.ended:
                writer.idle = True
                self.changed.notify_all()
                self.changed.wait()
            writer.idle = False
            return not self.ended

    def wait_for_server(self, writer):
        with self.changed:
            self.server_is_up = False
            writer.idle = True
            self.changed.notify_all()
            while not self.server_is_up and not self.ended:
                self.changed.wait()
            writer.idle = False

    # ---- For the test ----

    def check(self):
        for writer in self.writers:
            if writer.error:
                raise AssertionError(f"a writer failed: {writer.error!r}") from writer.error

    def all_idle(self):
        self.check()
        with self.changed:
            return all(writer.idle for writer in self.writers)

    def pause(self):
        """Comes back when no request is in flight."""
        with self.changed:
            self.paused = True
        e2e.wait_until(self.all_idle, "the writers pause")

    def go_on(self):
        with self.changed:
            self.paused = False
            self.changed.notify_all()

    def server_is_back(self):
        with self.changed:
            self.server_is_up = True
            self.changed.notify_all()

    def wait_for_requests(self, count):
        """So many more."""
        end = self.requests + count

        def enough():
            self.check()
            return self.requests >= end

        e2e.wait_until(enough, f"{count} requests")

    def end(self):
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        for writer in self.writers:
            writer.join(e2e.WAIT_S)
            assert not writer.is_alive(), "a writer does not end"
        self.check()
