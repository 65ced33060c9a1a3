# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that says what a test wants it to say, so that bitmapctl can be told anything."""

import os
import socket
import struct
import tempfile
import threading

HELLO, DRIVE_ADD, DRIVE_LIST, DRIVE_SHOW = 1, 16, 17, 18
BITMAP_CREATE, BITMAP_LIST, BITMAP_SHOW, BITMAP_MERGE, MAP = 32, 33, 34, 41, 42
DRIVE_ADOPT, MARK, SETTLE, FLUSH, STATUS, TRANSACTION = 24, 48, 49, 64, 65, 67
CHECKPOINT_CREATE, CHECKPOINT_LIST, CHECKPOINT_DELETE, CHECKPOINT_MAP = 80, 81, 82, 83

UUID = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"

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


def drive(name="d", path="", size=1 << 20, durability=1, identity=7, checkpoints=0, known_by="",
          untracked=""):  # fmt: skip
    return (
        struct.pack("<Q", identity) + string(name) + string(path)
        + struct.pack("<QIBIIIIQI", size, 65536, durability, 0, 0, 0, 0, 0, checkpoints)
        + string(known_by) + string(untracked)
    )  # fmt: skip


def bitmap(name="d/n", validity=0, reason="", size=1 << 20, untracked=""):
    return (
        struct.pack("<Q", 8) + string(name) + struct.pack("<IQBBB", 65536, size, 1, 0, validity)
        + string(reason) + struct.pack("<QQ", 0, 0) + string(untracked)
    )  # fmt: skip


def checkpoint(drive="d", name="c", validity=0, reason="", untracked="", recording=1):
    return (
        struct.pack("<Q", 9) + string(drive) + string(name) + UUID
        + struct.pack("<QQIQBB", 60, 1_000_000_000, 65536, 1 << 20, recording, validity)
        + string(reason) + string(untracked) + struct.pack("<QQ", 131072, 2)
    )  # fmt: skip


def map_head(size=1 << 20, validity=0, reason="", name="d/n", untracked="", base="", target="",
             granularity=65536):  # fmt: skip
    def moment(name, sequence):
        return string(name) + (UUID if name else bytes(16)) + struct.pack("<Q", sequence if name else 0)

    return (
        string(name) + struct.pack("<QIBB", size, granularity, 1, validity) + string(reason)
        + struct.pack("<Q", 5) + string(untracked) + moment(base, 60) + moment(target, 70)
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
