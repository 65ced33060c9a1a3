# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a service: options, exit statuses, signals, systemd's protocols, full disks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from hung import Hung
from wire import *

MIB = 1 << 20
BITMAPD = os.environ["BITMAPD"]


def bitmapd(*arguments, **kwargs):
    return subprocess.run([BITMAPD, *arguments], capture_output=True, text=True, timeout=60,
                          **kwargs)


class Scratch:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="bitmapd-service-")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def file(self, name, content):
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path


def command_line():
    result = bitmapd("--version")
    assert result.returncode == 0 and result.stdout.startswith("bitmapd ")
    result = bitmapd("--help")
    for option in ("--state-dir", "--config", "--check-config", "--dump-config", "--accept-copy",
                   "--distrust", "--version", "--help"):
        assert option in result.stdout
    for bad in (["--nonsense"], ["extra"], ["--config"], ["--state-dir", ""]):
        result = bitmapd(*bad)
        assert result.returncode == 2 and result.stderr and not result.stdout, bad
    with open("/dev/full", "w") as full:
        assert subprocess.run([BITMAPD, "--help"], stdout=full).returncode == 1


def configuration():
    with Scratch() as scratch:
        good = scratch.file("good.yaml", "flush:\n  interval: 7s\n")
        result = bitmapd("--config", good, "--check-config")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        result = bitmapd("--config", good, "--dump-config")
        assert result.returncode == 0 and "interval: 7s" in result.stdout
        dumped = scratch.file("dumped.yaml", result.stdout)
        assert bitmapd("--config", dumped, "--dump-config").stdout == result.stdout
        for text in ("flush:\n  interval: soon\n", "nonsense: 1\n", "{{{", "flush: [1]\n",
                     "log:\n  level: info\nlog:\n  level: info\n"):
            bad = scratch.file("bad.yaml", text)
            for action in ([], ["--check-config"], ["--dump-config"]):
                result = bitmapd("--config", bad, "--state-dir", scratch.path, *action)
                assert result.returncode == 78, (text, result)
                assert bad + ":" in result.stderr and not result.stdout, result
        assert bitmapd("--config", scratch.path + "/none.yaml").returncode == 78
        # Nothing was started, nothing made.
        assert sorted(os.listdir(scratch.path)) == ["bad.yaml", "dumped.yaml", "good.yaml"]


def a_container_that_is_not_understood():
    for content in (b"", b"garbage" * 1000, b"QFI\xfb" + b"\0" * 4092, b"QFI\xfb\0\0\0\x02" + b"\0" * 65536):
        with Scratch() as scratch:
            path = scratch.file("bitmaps.qcow2", content)
            result = bitmapd("--state-dir", scratch.path)
            assert result.returncode == 65, result
            assert path in result.stderr
            with open(path, "rb") as file:
                assert file.read() == content


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def a_journal_of_a_newer_version():
    with Scratch() as scratch:
        daemon = Daemon(directory=scratch.path)
        daemon.start()
        daemon.client().must(DRIVE_ADD, drive_add("d", MIB))
        daemon.stop(signal.SIGKILL)
        path = scratch.path + "/journal.0"
        with open(path, "r+b") as file:
            block = bytearray(file.read(4096))
            struct.pack_into("<II", block, 8, 4, 0)
            struct.pack_into("<I", block, 12, crc32c(block))
            file.seek(0)
            file.write(block)
        names = sorted(os.listdir(scratch.path))
        for _ in range(2):
            result = bitmapd("--state-dir", scratch.path)
            assert result.returncode == 65, result
            assert "version: found 4, expected at most 3" in result.stderr, result
        with open(path, "rb") as file:
            assert file.read(4096) == block
        assert sorted(os.listdir(scratch.path)) == names
        # A container that was closed cleanly needs no journal, whatever made it.
        struct.pack_into("<II", block, 8, 1, 0)
        struct.pack_into("<I", block, 12, crc32c(block))
        with open(path, "r+b") as file:
            file.write(block)
        daemon.start()
        assert drive_id(daemon.client().must(DRIVE_SHOW, text("d"))) == 1
        assert daemon.stop() == 0


def a_container_put_back_in_place():
    """Under the same inode, as `cp` over it leaves it: the journal tells."""
    with Scratch() as scratch:
        daemon = Daemon(directory=scratch.path)
        daemon.start()
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 4096))
        assert daemon.stop() == 0
        with open(daemon.container, "rb") as file:
            old = file.read()
        daemon.start()
        daemon.client().must(MARK, mark(drive, [(0, 1)]))
        assert daemon.stop() == 0
        with open(daemon.container, "r+b") as file:
            file.write(old)
        daemon.start()
        client = daemon.client()
        assert b"earlier state" in client.must(BITMAP_SHOW, text("d/a"))
        assert client.map("d/a") == [(0, MIB)]
        assert any("damaged" in name for name in os.listdir(scratch.path))
        assert daemon.stop() == 0


def a_container_that_is_gone():
    """A new one is made, and says that the journal beside it was another one's."""
    with Scratch() as scratch:
        daemon = Daemon(directory=scratch.path)
        daemon.start()
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))
        client.must(MARK, mark(drive, [(0, 1)]))
        daemon.stop(signal.SIGKILL)
        os.unlink(daemon.container)
        daemon.start()
        said = "new container, another container's journal set aside"
        assert "warning: " + said in daemon.messages(), daemon.messages()
        assert any("damaged" in name for name in os.listdir(scratch.path))
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.messages().count(said) == 1, daemon.messages()
        assert daemon.stop() == 0


def one_daemon_at_a_time():
    with Daemon() as daemon:
        result = bitmapd("--state-dir", daemon.directory)
        assert result.returncode == 1 and daemon.container in result.stderr
        assert daemon.client().call(STATUS)[0] == OK
    with Scratch() as scratch:
        scratch.file("bitmapd.sock", "not a socket")
        result = bitmapd("--state-dir", scratch.path)
        assert result.returncode == 1 and "not a socket" in result.stderr
        with open(scratch.path + "/bitmapd.sock") as file:
            assert file.read() == "not a socket"


def reload():
    with Daemon("flush:\n  interval: 1h\n") as daemon:
        client = daemon.client()
        path = daemon.arguments[-1]

        def write(text):
            with open(path, "w") as file:
                file.write(text)
        write("flush:\n  interval: 100ms\nlog:\n  level: debug\n")
        client.must(RELOAD)
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 4096))
        client.must(MARK, mark(drive, [(0, 1)]))
        sequence, applied = 0, -1
        for _ in range(100):
            # server, two uuids, path, uptime, then the two sequences
            body = client.must(STATUS)
            at = 2 + struct.unpack_from("<H", body)[0] + 32
            at += 2 + struct.unpack_from("<H", body, at)[0] + 8
            sequence, applied = struct.unpack_from("<QQ", body, at)
            if sequence == applied:
                break
            time.sleep(0.1)
        assert sequence == applied  # the new interval is in force
        write("flush:\n  interval: nonsense\n")
        status, body = client.call(RELOAD)
        assert status == INVALID and b"flush.interval" in body, body
        write("container:\n  path: /elsewhere/bitmaps.qcow2\n")
        status, body = client.call(RELOAD)
        assert status == INVALID and b"container.path" in body, body
        daemon.process.send_signal(signal.SIGHUP)
        for _ in range(100):
            if daemon.messages().count("stays as it is") == 3:
                break
            time.sleep(0.05)
        assert daemon.messages().count("stays as it is") == 3
        assert client.call(STATUS)[0] == OK


def socket_activation():
    activate = shutil.which("systemd-socket-activate")
    if not activate:
        assert os.environ.get("CI") != "true", "systemd-socket-activate is missing"
        print("systemd-socket-activate is missing: skipped")
        return
    with Scratch() as scratch:
        path = scratch.path + "/passed.sock"
        process = spawn([activate, "-l", path, BITMAPD, "--state-dir", scratch.path],
                        stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: accepts(path), "the socket is listened on")  # and starts it
            client = Client(path)
            client.must(DRIVE_ADD, drive_add("d", MIB))
            assert not os.path.exists(scratch.path + "/bitmapd.sock")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
        assert os.path.exists(path)  # not ours to remove
        # What is passed in has to be a listening Unix socket.
        tcp = socket.create_server(("127.0.0.1", 0))
        result = subprocess.run(
            ["sh", "-c", "exec 3<&%d; LISTEN_FDS=1 LISTEN_PID=$$ exec %s --state-dir %s" %
             (tcp.fileno(), BITMAPD, scratch.path)],
            pass_fds=[tcp.fileno()], capture_output=True, text=True, timeout=20)
        assert result.returncode == 1 and "Unix" in result.stderr, result


def answers_survive_a_stop():
    """Everything that was acknowledged before or during SIGTERM is there afterwards."""
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 36)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        marked, created = [], []

        def work(number):
            one = daemon.client()
            try:
                for i in range(100000):
                    if i % 50 == 0:
                        name = "d/x%d-%d" % (number, i)
                        if one.call(BITMAP_CREATE, bitmap_create(name))[0] == OK:
                            created.append(name)
                    offset = (i * 4 + number) * 65536
                    if one.call(MARK, mark(drive, [(offset, 1)]))[0] == OK:
                        marked.append(offset)
            except (Closed, BrokenPipeError):
                pass
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert daemon.stop() == 0
        for thread in threads:
            thread.join()
        assert marked and created
        daemon.start()
        client = daemon.client()
        dirty = set()
        for offset, length in client.map("d/a"):
            dirty.update(range(offset, offset + length, 65536))
        assert set(marked) <= dirty
        assert len(dirty) <= len(marked) + 4  # at most the ones whose answer was cut off
        for name in created:
            client.must(BITMAP_SHOW, text(name))


def clients_that_leave_during_a_stop():
    """The last write-back goes on without them, and the container is clean."""
    for _ in range(5):
        with Daemon() as daemon:
            client = daemon.client()
            drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 40)))
            client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
            # Some MiB to be written back.
            client.must(MARK, mark(drive, [((i << 32) + (1 << 30), 1) for i in range(256)]))
            daemon.process.send_signal(signal.SIGTERM)
            while os.path.exists(daemon.socket):
                time.sleep(0.0005)
            client.close()
            assert daemon.process.wait(30) == 0
            daemon.start()
            client = daemon.client()
            assert len(client.map("d/a")) == 256
            assert b"clean container" in client.must(STATUS)


def a_path_that_hangs_does_not_hold_up_a_stop():
    if not Hung.possible():
        return
    with Scratch() as scratch, Daemon() as daemon:
        with Hung(scratch.path) as hung:
            client = daemon.client()
            drive = drive_id(client.must(DRIVE_ADD, drive_add("d", MIB)))
            client.must(BITMAP_CREATE, bitmap_create("d/a"))
            client.must(MARK, mark(drive, [(0, 1)]))
            client.request(DRIVE_ADD, drive_add("e", 0, os.path.join(scratch.path, "drive")))
            assert hung.somebody_waits(20)
            daemon.process.send_signal(signal.SIGTERM)
            for _ in range(400):
                if "stopped cleanly" in daemon.messages():
                    break
                time.sleep(0.05)
            assert "stopped cleanly" in daemon.messages(), daemon.messages()
        assert daemon.process.wait(30) == 0
        daemon.start()
        assert b"clean container" in daemon.client().must(STATUS)


def kills_lose_nothing():
    """kill -9 at random moments: what was acknowledged is there, marks and all."""
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 36)))
        client.must(BITMAP_CREATE, bitmap_create("d/a"))
        names, marked, tried = [], set(), set()
        for turn in range(15):
            clients = [daemon.client() for _ in range(3)]

            def work(number):
                one = clients[number]
                try:
                    for i in range(10000):
                        if number == 0:
                            name = "d/k%d-%d" % (turn, i)
                            if one.call(BITMAP_CREATE, bitmap_create(name))[0] == OK:
                                names.append(name)
                        else:
                            offset = ((turn * 10000 + i) * 3 + number) * 65536
                            tried.add(offset)
                            if one.call(MARK, mark(drive, [(offset, 1)]))[0] == OK:
                                marked.add(offset)
                except (Closed, BrokenPipeError):
                    pass
            threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.02 + 0.013 * turn)
            daemon.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
            daemon.start()
        client = daemon.client()
        assert len(names) > 30 and len(marked) > 100
        for name in names:
            assert b"cleanly" not in client.must(BITMAP_SHOW, text(name))
        dirty = set()
        for offset, length in client.map("d/a"):
            dirty.update(range(offset, offset + length, 65536))
        assert marked <= dirty <= tried


def a_broken_catalog_costs_history_only():
    for spoil in ("garbage", "directory"):
        with Daemon() as daemon:
            catalog = os.path.join(daemon.directory, "catalog.sqlite3")
            daemon.client().must(DRIVE_ADD, drive_add("d", MIB))
            assert daemon.stop() == 0
            os.unlink(catalog)
            if spoil == "garbage":
                with open(catalog, "wb") as file:
                    file.write(os.urandom(50000))
            else:
                os.mkdir(catalog)
            daemon.start()
            client = daemon.client()
            client.must(BITMAP_CREATE, bitmap_create("d/a"))
            client.must(FLUSH)
            assert daemon.stop() == 0
            assert catalog in daemon.messages()
            aside = [name for name in os.listdir(daemon.directory) if ".damaged" in name]
            assert len(aside) == (spoil == "garbage"), aside
            daemon.start()
            daemon.client().must(BITMAP_SHOW, text("d/a"))


def a_drive_of_16_tib():
    size = 16 << 40
    with Daemon() as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", size)))
        base = daemon.rss()
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        client.must(MARK, mark(drive, [(0, size)]))
        assert client.map("d/a") == [(0, size)]
        assert daemon.rss() - base < 4 * MIB
        client.must(BITMAP_CLEAR, bitmap_range("d/a", 65536, size - 2 * 65536))
        # A granule in each chunk: every chunk is dense.
        client.must(MARK, mark(drive, [((i << 35) + (1 << 30), 1) for i in range(512)]))
        assert len(client.map("d/a")) == 514
        client.must(FLUSH)
        assert daemon.rss() - base < 80 * MIB, (daemon.rss() - base) // MIB
        assert daemon.stop() == 0
        daemon.start()
        client = daemon.client()
        assert len(client.map("d/a")) == 514
        # Too fine for so large a drive.
        status, body = client.call(BITMAP_CREATE, bitmap_create("d/b", 512))
        assert status == INVALID and b"granularity" in body


class SmallDisk:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        os.mkdir(self.path)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", self.path], check=True)
        return self.path

    def __exit__(self, *_):
        subprocess.run(["umount", self.path], check=True)


def fill(mount):
    with open(mount + "/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass


def full_disk():
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "a full disk needs root"
        print("not root: no full disk")
        return
    with Scratch() as scratch, SmallDisk(scratch.path + "/small") as mount, \
            Daemon(directory=mount) as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 40)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        client.must(FLUSH)
        fill(mount)
        # 32 chunks of 64 KiB: more than there is.
        client.must(MARK, mark(drive, [(i << 35, 1) for i in range(32)]))
        status, body = client.call(FLUSH)
        assert status == NOT_DURABLE and b"No space left" in body, (status, body)
        client.must(MARK, mark(drive, [(1 << 39, 1)]))
        assert len(client.map("d/a")) == 32
        assert b"No space left" in client.must(STATUS)
        os.unlink(mount + "/filler")
        client.must(FLUSH)
        assert b"No space left" not in client.must(STATUS)
        assert daemon.stop() == 0
        daemon.start()
        assert len(daemon.client().map("d/a")) == 32


def a_start_on_a_full_disk_can_be_stopped():
    if os.geteuid() != 0:
        return
    with Scratch() as scratch, SmallDisk(scratch.path + "/full") as mount, \
            Daemon(directory=mount) as daemon:
        client = daemon.client()
        drive = drive_id(client.must(DRIVE_ADD, drive_add("d", 1 << 40)))
        client.must(BITMAP_CREATE, bitmap_create("d/a", 65536))
        client.must(MARK, mark(drive, [(i << 35, 1) for i in range(32)]))
        daemon.stop(signal.SIGKILL)
        fill(mount)
        for _ in range(2):
            daemon.start()
            client = daemon.client()
            assert len(client.map("d/a")) == 32
            assert daemon.stop() == 1
        os.unlink(mount + "/filler")
        daemon.start()
        assert len(daemon.client().map("d/a")) == 32


def read_only_directory():
    if os.geteuid() != 0:
        return
    with Scratch() as scratch, SmallDisk(scratch.path + "/ro") as mount:
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        result = bitmapd("--state-dir", mount)
        assert result.returncode == 1 and "Read-only" in result.stderr, result


run([command_line, configuration, a_container_that_is_not_understood,
     a_journal_of_a_newer_version, a_container_put_back_in_place,
     a_container_that_is_gone, one_daemon_at_a_time, reload,
     socket_activation, answers_survive_a_stop,
     clients_that_leave_during_a_stop, a_path_that_hangs_does_not_hold_up_a_stop, kills_lose_nothing,
     a_broken_catalog_costs_history_only, a_drive_of_16_tib, full_disk,
     a_start_on_a_full_disk_can_be_stopped, read_only_directory])
