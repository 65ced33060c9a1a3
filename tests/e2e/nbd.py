# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small NBD client, for what tools do not let a test choose: requests without
a flush at the end, several in flight, and the very errno of each reply.

See the NBD protocol: newstyle negotiation with NBD_OPT_GO, simple replies.
"""

import errno
import socket
import struct

FLAG_FIXED_NEWSTYLE = 1
FLAG_NO_ZEROES = 2
OPT_GO = 7
REP_ACK = 1
REP_INFO = 3
INFO_EXPORT = 0

READ, WRITE, DISCONNECT, FLUSH, TRIM, ZERO = 0, 1, 2, 3, 4, 6

FUA = 1
NO_HOLE = 2
FAST_ZERO = 16

HAS_FLUSH, HAS_FUA, HAS_TRIM, HAS_ZERO = 4, 8, 32, 64
CAN_MULTI_CONN = 256
HAS_FAST_ZERO = 2048

REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698


class NbdError(OSError):
    """The server's answer to a request was an error."""


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.cookie = 0
        self.negotiate()

    def negotiate(self):
        if self.receive(16) != b"NBDMAGICIHAVEOPT":
            raise ValueError("not an NBD server")
        self.receive(2)
        self.socket.sendall(struct.pack(">I", FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))
        payload = struct.pack(">I", 0) + struct.pack(">H", 0)  # default export, no wishes
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", OPT_GO, len(payload)) + payload)
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
            data = self.receive(length)
            if magic != 0x0003E889045565A9 or option != OPT_GO or kind & 0x80000000:
                raise ValueError(f"NBD_OPT_GO: {kind:#x} {data!r}")
            if kind == REP_ACK:
                return
            if kind == REP_INFO and struct.unpack(">H", data[:2])[0] == INFO_EXPORT:
                self.size, self.flags = struct.unpack(">QH", data[2:])

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the NBD server closed the connection")
            data += piece
        return data

    def send(self, kind, offset=0, length=0, flags=0, data=b""):
        """Sends a request without waiting; returns its cookie."""
        self.cookie += 1
        header = struct.pack(
            ">IHHQQI", REQUEST_MAGIC, flags, kind, self.cookie, offset, length or len(data))
        self.socket.sendall(header + data)
        return self.cookie

    def reply(self, read_bytes=0):
        """Takes the next reply: (cookie, errno or 0, data)."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        if magic != REPLY_MAGIC:
            raise ValueError(f"reply's magic is {magic:#x}")
        return cookie, error, self.receive(read_bytes) if error == 0 else b""

    def call(self, kind, offset=0, length=0, flags=0, data=b""):
        sent = self.send(kind, offset, length, flags, data)
        cookie, error, read = self.reply(length if kind == READ else 0)
        assert cookie == sent
        if error:
            raise NbdError(error, errno.errorcode.get(error, "?"))
        return read

    def read(self, offset, length):
        return self.call(READ, offset, length)

    def write(self, offset, data, flags=0):
        self.call(WRITE, offset, flags=flags, data=data)

    def zero(self, offset, length, flags=0):
        self.call(ZERO, offset, length, flags)

    def trim(self, offset, length, flags=0):
        self.call(TRIM, offset, length, flags)

    def flush(self):
        self.call(FLUSH)

    def close(self):
        """Leaves without a flush."""
        self.send(DISCONNECT)
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()
