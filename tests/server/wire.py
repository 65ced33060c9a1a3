# SPDX-License-Identifier: LGPL-2.1-or-later
"""A second implementation of proto/protocol.md, byte by byte, and a daemon to try it on."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from programs import accepts, spawn, wait_until  # noqa: E402

HELLO, RESTRICT = 1, 3
DRIVE_ADD, DRIVE_LIST, DRIVE_SHOW, DRIVE_SET, DRIVE_RENAME, DRIVE_RESIZE, DRIVE_REMOVE = range(16, 23)
DRIVE_FENCE, DRIVE_ADOPT = 23, 24
(BITMAP_CREATE, BITMAP_LIST, BITMAP_SHOW, BITMAP_DELETE, BITMAP_ENABLE, BITMAP_DISABLE,
 BITMAP_RENAME, BITMAP_SET, BITMAP_CLEAR, BITMAP_MERGE, MAP) = range(32, 43)
MARK, SETTLE, ATTACH, RESUME, DETACH = range(48, 53)
FLUSH, STATUS, RELOAD, TRANSACTION = range(64, 68)
CHECKPOINT_CREATE, CHECKPOINT_LIST, CHECKPOINT_DELETE, CHECKPOINT_MAP = range(80, 84)

REPLY, MORE = 1, 2
(OK, MALFORMED, UNKNOWN_OPERATION, VERSION, INVALID, NOT_FOUND, EXISTS, BUSY, PERMISSION, LIMIT,
 NO_MEMORY, IO, NOT_DURABLE, SHUTTING_DOWN, FENCED, FAILED, OTHER_DRIVE) = range(17)

NONE = bytes(16)
EXACT, SUPERSET, UNKNOWN = range(3)
CONTINUES, RETURNING = 1, 2
READ, TRACK, OPERATE, ADMIN = 1, 2, 4, 8


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<H", len(value)) + value


def ranges(pairs):
    return struct.pack("<I", len(pairs)) + b"".join(struct.pack("<QQ", a, b) for a, b in pairs)


def frame(operation, payload=b"", cookie=0, flags=0, status=0, length=None):
    return struct.pack("<IHBBQ", 16 + len(payload) if length is None else length, operation,
                       flags, status, cookie) + payload


def hello(magic=0x44504d42, low=1, high=1, name="test"):
    return struct.pack("<IHHQ", magic, low, high, 0) + text(name)


def drive_add(name, size, path="", request=NONE, durability=0):
    return request + text(name) + text(path) + struct.pack("<QBI", size, durability, 0)


def bitmap_create(name, granularity=0, flags=0, request=NONE):
    return request + text(name) + struct.pack("<IB", granularity, flags)


def change(name, argument="", request=NONE):
    """BITMAP_DELETE, _ENABLE, _DISABLE, _RENAME"""
    return request + text(name) + text(argument)


def drive_change(name, argument="", flags=0, request=NONE):
    return change(name, argument, request) + struct.pack("<B", flags)


def bitmap_range(name, offset, length, flags=0, request=NONE):
    return request + text(name) + struct.pack("<QQB", offset, length, flags)


def mark(drive, pairs, first=0):
    return struct.pack("<QQ", drive, first) + ranges(pairs)


def settle(drive, pairs):
    return struct.pack("<Q", drive) + ranges(pairs)


def attach(drive, token, flags=0):
    return text(drive) + text(token) + struct.pack("<B", flags)


def checkpoint_create(name, drives, request=NONE):
    return request + text(name) + struct.pack("<H", len(drives)) + b"".join(map(text, drives))


def checkpoint_delete(drive, name, request=NONE):
    return request + text(drive) + text(name)


def checkpoint_map(drive, since, until="", offset=0):
    return text(drive) + text(since) + text(until) + struct.pack("<Q", offset)


def restrict(drive, rights):
    return text(drive) + struct.pack("<I", rights)


def transaction(parts, request=NONE):
    """parts: (operation, payload)"""
    body = b"".join(struct.pack("<HI", operation, len(payload)) + payload
                    for operation, payload in parts)
    return request + struct.pack("<I", len(body)) + body


class Fields:
    """Takes a payload apart."""

    def __init__(self, payload):
        self.payload, self.at = payload, 0

    def number(self, code):
        value, = struct.unpack_from("<" + code, self.payload, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def bytes(self, count):
        self.at += count
        return self.payload[self.at - count:self.at]

    def text(self):
        return self.bytes(self.number("H")).decode()

    def take(self, layout):
        """layout: "name:code ..." with a struct code, t for a text, u for a UUID."""
        found = {}
        for field in layout.split():
            name, code = field.split(":")
            found[name] = (self.text() if code == "t" else self.bytes(16) if code == "u"
                           else self.number(code))
        return found


def drive_info(payload):
    return Fields(payload).take("id:Q name:t path:t size:Q granularity:I durability:B bitmaps:I "
                                "recording:I writers:I lost_writers:I unsettled:Q checkpoints:I "
                                "identity:t untracked:t")


def bitmap_info(payload):
    return Fields(payload).take("id:Q bitmap:t granularity:I size:Q recording:B gap:B validity:B "
                                "reason:t dirty_bytes:Q dirty_count:Q untracked:t")


def checkpoint_info(payload):
    return Fields(payload).take("id:Q drive:t name:t uuid:u sequence:Q created_ns:Q granularity:I "
                                "size:Q recording:B validity:B reason:t untracked:t dirty_bytes:Q "
                                "dirty_count:Q")


def checkpoint_created(payload):
    return Fields(payload).take("uuid:u sequence:Q created_ns:Q drives:I")


def map_head(payload):
    return Fields(payload).take("bitmap:t size:Q granularity:I recording:B validity:B reason:t "
                                "sequence:Q untracked:t base:t base_uuid:u base_sequence:Q "
                                "target:t target_uuid:u target_sequence:Q")


class Closed(Exception):
    pass


class Client:
    def __init__(self, path, greet=True, timeout=30, connected=None):
        self.socket = connected or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        if not connected:
            self.socket.connect(path)
        self.cookie = 0
        self.buffer = b""
        if greet:
            status, _ = self.call(HELLO, hello())
            assert status == OK, status

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self, count):
        while len(self.buffer) < count:
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed()
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def reply(self):
        """(operation, flags, status, cookie, payload)"""
        length, operation, flags, status, cookie = struct.unpack("<IHBBQ", self.receive(16))
        assert flags & REPLY
        return operation, flags, status, cookie, self.receive(length - 16)

    def request(self, operation, payload=b""):
        self.cookie += 1
        self.send(frame(operation, payload, self.cookie))
        return self.cookie

    def call(self, operation, payload=b""):
        cookie = self.request(operation, payload)
        got, flags, status, answered, body = self.reply()
        assert (got, flags, answered) == (operation, REPLY, cookie), (got, flags, answered)
        return status, body

    def must(self, operation, payload=b""):
        status, body = self.call(operation, payload)
        assert status == OK, (operation, status, body)
        return body

    def map(self, name, offset=0):
        cookie = self.request(MAP, text(name) + struct.pack("<Q", offset))
        return self.map_replies(cookie)

    def since(self, drive, since, until="", offset=0):
        """(head, runs), or the status of a refusal."""
        return self.map_replies(
            self.request(CHECKPOINT_MAP, checkpoint_map(drive, since, until, offset)), True)

    def answer(self, operation, payload=b""):
        """Every frame of an answer, as (flags, status, payload)."""
        cookie, found = self.request(operation, payload), []
        while True:
            got, flags, status, answered, body = self.reply()
            assert (got, answered) == (operation, cookie), (got, answered)
            found.append((flags, status, body))
            if not flags & MORE:
                return found

    def items(self, operation, payload, parse):
        cookie, found = self.request(operation, payload), []
        while True:
            _, flags, status, answered, body = self.reply()
            assert answered == cookie and status == OK, (status, body)
            if not flags & MORE:
                assert struct.unpack("<Q", body)[0] == len(found)
                return found
            found.append(parse(body))

    def checkpoints(self, drive=""):
        return self.items(CHECKPOINT_LIST, text(drive), checkpoint_info)

    def map_replies(self, cookie, with_head=False):
        runs, head = [], None
        while True:
            _, flags, status, answered, body = self.reply()
            if with_head and head is None and status != OK:
                return status
            assert answered == cookie and status == OK, (status, body)
            if head is None:
                head = body
            elif flags & MORE:
                count, = struct.unpack_from("<I", body)
                runs += [struct.unpack_from("<QQ", body, 4 + 16 * i) for i in range(count)]
            else:
                total, dirty, _ = struct.unpack("<QQI", body)
                assert total == len(runs) and dirty == sum(n for _, n in runs)
                return (map_head(head), runs) if with_head else runs


class Daemon:
    def __init__(self, config=None, directory=None):
        self.directory = directory or tempfile.mkdtemp(prefix="bitmapd-server-")
        self.given = directory is not None
        self.socket = os.path.join(self.directory, "bitmapd.sock")
        self.container = os.path.join(self.directory, "bitmaps.qcow2")
        self.arguments = [os.environ["BITMAPD"], "--state-dir", self.directory]
        if config:
            path = os.path.join(self.directory, "bitmapd.yaml")
            with open(path, "w") as file:
                file.write(config)
            self.arguments += ["--config", path]
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        if self.process and self.process.poll() is None:
            status = self.stop(signal.SIGKILL if kind else signal.SIGTERM)
            assert kind or status == 0, status
        if not self.given:
            shutil.rmtree(self.directory)

    def spawn(self, **kwargs):
        self.log = open(os.path.join(self.directory, "log"), "ab")
        self.process = spawn(self.arguments, stdout=subprocess.DEVNULL, stderr=self.log, **kwargs)

    def start(self, **kwargs):
        self.spawn(**kwargs)
        for _ in range(2000):
            try:
                Client(self.socket).close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self.messages()
                time.sleep(0.005)
        raise AssertionError("the daemon does not listen: " + self.messages())

    def messages(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.log.close()
        return status

    def client(self, **kwargs):
        return Client(self.socket, **kwargs)

    def rss(self):
        with open("/proc/%d/statm" % self.process.pid) as file:
            return int(file.read().split()[1]) * 4096

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))


def drive_id(body):
    return struct.unpack_from("<Q", body)[0]


def run(tests):
    for test in tests:
        print(test.__name__, flush=True)
        test()
    print("%d tests" % len(tests))
