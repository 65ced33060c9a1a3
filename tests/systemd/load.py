# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that mark all the time, come back whenever the daemon goes, and remember what was
acknowledged: at any time every one of those marks has to be in the map."""

import os
import sys
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server")]

from wire import MARK, OK, SHUTTING_DOWN, DRIVE_SHOW, Client, Closed, drive_id, mark, text  # noqa: E402

GRANULE = 65536
SIZE = 1 << 40  # 2^24 granules
PATIENCE_S = 60  # for an answer; a start is behind the socket


class Load:
    def __init__(self, socket, drives):
        """@socket: called for its path, which differs after a boot."""
        self.socket = socket
        self.acknowledged = {drive: set() for drive in drives}
        self.refused = []  # connections, and requests: words
        self.served = 0  # connections
        self.running = threading.Event()
        self.over = False
        self.threads = [threading.Thread(target=self.mark, args=(drive, number), daemon=True)
                        for number, drive in enumerate(drives)]
        for thread in self.threads:
            thread.start()

    def mark(self, drive, number):
        # Strides that are odd visit every granule once.
        place, stride = number, 2 * number + 1000003
        while not self.over:
            if not self.running.wait(0.1):
                continue
            try:
                client = Client(self.socket(), timeout=PATIENCE_S)
                self.served += 1
                identity = drive_id(client.must(DRIVE_SHOW, text(drive)))
                while self.running.is_set():
                    place = (place + stride) % (SIZE // GRANULE)
                    status, body = client.call(MARK, mark(identity, [(place * GRANULE, 1)]))
                    if status == OK:
                        self.acknowledged[drive].add(place)
                    elif status == SHUTTING_DOWN:
                        break
                    else:
                        self.refused.append(f"mark of {drive}: {status} {body}")
                        time.sleep(0.1)
                client.close()
            except (Closed, BrokenPipeError):
                pass  # the daemon is gone; its socket is not
            except OSError as error:
                self.refused.append(f"{type(error).__name__}: {error}")
                time.sleep(0.1)
            except AssertionError as error:
                if f", {SHUTTING_DOWN}, " not in str(error):
                    self.refused.append(f"AssertionError: {error}")
                    time.sleep(0.1)

    def total(self):
        return sum(map(len, self.acknowledged.values()))

    def go(self):
        self.running.set()

    def pause(self):
        self.running.clear()

    def end(self):
        self.over = True
        self.running.set()
        self.running.clear()
        for thread in self.threads:
            thread.join(PATIENCE_S)

    def check(self):
        """No bit is missing."""
        for drive, marked in self.acknowledged.items():
            client = Client(self.socket(), timeout=PATIENCE_S)
            dirty = set()
            for offset, length in client.map(f"{drive}/b"):
                dirty.update(range(offset // GRANULE, (offset + length) // GRANULE))
            client.close()
            missing = marked - dirty
            assert not missing, f"{drive}: {len(missing)} of {len(marked)} marks are missing"
