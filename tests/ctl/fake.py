# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that says what a test wants it to say, so that bitmapctl can be told anything."""

import os
import socket
import struct
import tempfile
import threading

HELLO, DRIVE_ADD, DRIVE_LIST, DRIVE_SHOW = 1, 16, 17, 18
BITMAP_CREATE, BITMAP_LIST, BITMAP_SHOW, BITMAP_MERGE, MAP = 32, 33, 34, 41, 42
MARK, SETTLE, FLUSH, STATUS = 48, 49, 64, 65

REPLY, MORE = 1, 2
UNKNOWN = 2  # validity


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<H", len(data)) + data


def ranges(pairs):
    return struct.pack("<I", len(pairs)) + b"".join(struct.pack("<QQ", *pair) for pair in pairs)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def hello():
    return struct.pack("<HQIII", 1, 0, 1 << 20, 4096, 1 << 20) + bytes(32) + string("fake")


def drive(name="d", path="", size=1 << 20, durability=1, identity=7):
    return (
        struct.pack("<Q", identity) + string(name) + string(path)
        + struct.pack("<QIBIIIIQ", size, 65536, durability, 0, 0, 0, 0, 0)
    )  # fmt: skip


def bitmap(name="d/n", validity=0, reason="", size=1 << 20):
    return (
        struct.pack("<Q", 8) + string(name) + struct.pack("<IQBBB", 65536, size, 1, 0, validity)
        + string(reason) + struct.pack("<QQ", 0, 0)
    )  # fmt: skip


def map_head(size=1 << 20, validity=0, reason="", name="d/n"):
    return (
        string(name) + struct.pack("<QIBB", size, 65536, 1, validity) + string(reason)
        + struct.pack("<Q", 5)
    )  # fmt: skip


def map_end(pairs, crc=None):
    if crc is None:
        crc = crc32c(ranges(pairs)[4:])
    return struct.pack("<QQI", len(pairs), sum(length for _, length in pairs), crc)


def map_replies(pairs, **head):
    return [
        (MORE, 0, map_head(**head)),
        (MORE, 0, ranges(pairs)),
        (0, 0, map_end(pairs)),
    ]


def refusal(status, text="no"):
    return [(0, status, string(text))]


def ok(payload=b""):
    return [(0, 0, payload)]


class Fake:
    """
    Answers each operation with answers[operation]: a list of (flags, status,
    payload), or a function from the request's payload to one.  None closes
    the connection, and so does CLOSE in a list.  Requests are kept in
    self.requests as (operation, payload).
    """

    CLOSE = object()

    def __init__(self, answers):
        self.answers = {HELLO: ok(hello()), DRIVE_SHOW: ok(drive()), SETTLE: ok(), **answers}
        self.requests = []

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Wakes accept().
        self.stopping = True
        with socket.socket(socket.AF_UNIX) as waker:
            waker.connect(self.path)
        self.thread.join()
        self.listener.close()
        self.directory.cleanup()

    stopping = False

    def _serve(self):
        while True:
            connection, _ = self.listener.accept()
            with connection:
                if self.stopping:
                    return
                try:
                    self._talk(connection)
                except (ConnectionError, EOFError):
                    pass

    @staticmethod
    def _read(connection, count):
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _talk(self, connection):
        while True:
            length, operation, _, _, cookie = struct.unpack("<IHBBQ", self._read(connection, 16))
            payload = self._read(connection, length - 16)
            self.requests.append((operation, payload))
            answer = self.answers[operation]
            if callable(answer):
                answer = answer(payload)
            if answer is None:
                return
            for item in answer:
                if item is Fake.CLOSE:
                    return
                if isinstance(item, bytes):
                    connection.sendall(item)
                    continue
                flags, status, body = item
                connection.sendall(
                    struct.pack("<IHBBQ", 16 + len(body), operation, REPLY | flags, status, cookie)
                    + body
                )

    def sent(self, operation):
        return [payload for kind, payload in self.requests if kind == operation]
