# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory journal: marks of process-crash drives that wait for no disk, and what is left of
them when the daemon is killed, with and without its files."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from wire import *

MIB, GIB = 1 << 20, 1 << 30
G = 64 << 10
POWER_LOSS, PROCESS_CRASH = 1, 2
NEVER = "flush:\n  interval: 24h\n  dirty_limit: 1G\n"


@contextlib.contextmanager
def memory():
    path = tempfile.mkdtemp(prefix="bitmapd-memory-", dir="/dev/shm")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def configured(path, more=NEVER):
    return f"journal:\n  memory_path: {path}/journal\n{more}"


def two_drives(client):
    """(power-loss, process-crash)"""
    ids = []
    for name, durability in (("power", POWER_LOSS), ("crash", PROCESS_CRASH)):
        ids.append(drive_id(client.must(
            DRIVE_ADD, drive_add(name, 4 * GIB, durability=durability))))
        client.must(BITMAP_CREATE, bitmap_create(f"{name}/b", G))
    return ids


def validity(client, name):
    info = bitmap_info(client.must(BITMAP_SHOW, text(name)))
    return info["validity"], info["reason"]


def granules(client, name):
    return {i for offset, length in client.map(name)
            for i in range(offset // G, (offset + length) // G)}


def files(path):
    return sorted(os.listdir(path))


def marks_are_there_after_a_kill():
    with memory() as path, Daemon(configured(path)) as daemon:
        assert files(path) == ["journal.0", "journal.1"]
        client = daemon.client()
        power, crash = two_drives(client)
        for i in range(100):
            client.must(MARK, mark(crash, [(2 * i * G, 1)]))
        client.must(MARK, mark(power, [(0, 1)]))
        client.must(MARK, mark(crash, [(1001 * G, 512)]))
        daemon.stop(signal.SIGKILL)
        daemon.start()
        client = daemon.client()
        assert granules(client, "crash/b") == {2 * i for i in range(100)} | {1001}
        assert granules(client, "power/b") == {0}
        assert validity(client, "crash/b") == (EXACT, "")
        # A second life begins with new files, and an orderly end leaves none.
        client.must(MARK, mark(crash, [(5 * G, 1)]))
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert 5 in granules(daemon.client(), "crash/b")
        assert daemon.stop() == 0
        assert files(path) == []
        daemon.start()
        assert validity(daemon.client(), "crash/b") == (EXACT, "")


def without_its_files_such_drives_are_unknown():
    def remove(path):
        for name in files(path):
            os.unlink(f"{path}/{name}")

    def remove_one(path):
        os.unlink(f"{path}/journal.1")

    def cut(path):
        os.truncate(f"{path}/journal.0", 4096)

    def spoil(path):
        with open(f"{path}/journal.0", "r+b") as file:
            file.write(b"\xff" * 64)

    for deed in (remove, remove_one, cut, spoil):
        with memory() as path, Daemon(configured(path)) as daemon:
            client = daemon.client()
            power, crash = two_drives(client)
            client.must(MARK, mark(power, [(0, 1)]))
            client.must(MARK, mark(crash, [(G, 1)]))
            daemon.stop(signal.SIGKILL)
            deed(path)
            daemon.start()
            client = daemon.client()
            assert validity(client, "power/b") == (EXACT, ""), deed
            assert granules(client, "power/b") == {0}, deed
            found, reason = validity(client, "crash/b")
            assert found == UNKNOWN and "memory journal" in reason, (deed, found, reason)
            # All that is known to be dirty is not all that is.
            assert client.map("crash/b") == [(0, 4 * GIB)]


def a_daemon_that_looks_elsewhere():
    with memory() as path, memory() as other, Daemon(configured(path)) as daemon:
        client = daemon.client()
        _, crash = two_drives(client)
        client.must(MARK, mark(crash, [(G, 1)]))
        daemon.stop(signal.SIGKILL)
        with open(daemon.directory + "/bitmapd.yaml", "w") as file:
            file.write(configured(other))
        daemon.start()
        found, reason = validity(daemon.client(), "crash/b")
        assert found == UNKNOWN and "the memory journal is missing" in reason, (found, reason)


def no_tmpfs_no_memory_journal():
    with tempfile.TemporaryDirectory(prefix="bitmapd-disk-", dir="/var/tmp") as path, \
            Daemon(configured(path)) as daemon:
        client = daemon.client()
        _, crash = two_drives(client)
        client.must(MARK, mark(crash, [(G, 1)]))
        assert files(path) == []
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert granules(daemon.client(), "crash/b") == {1}
        assert validity(daemon.client(), "crash/b") == (EXACT, "")


def full_memory():
    """A tmpfs without room for its files, and one that could not even be made in."""
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "a small tmpfs needs root"
        return
    with memory() as path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], check=True)
        try:
            with Daemon(configured(path)) as daemon:
                client = daemon.client()
                _, crash = two_drives(client)
                client.must(MARK, mark(crash, [(G, 1)]))
                assert "No space left" in daemon.messages()
                assert files(path) == []
                daemon.stop(signal.SIGKILL)
                daemon.start()
                assert validity(daemon.client(), "crash/b") == (EXACT, "")
                assert granules(daemon.client(), "crash/b") == {1}
        finally:
            subprocess.run(["umount", path], check=True)


class Frozen:
    """A file system of its own for the state, which can stand still."""

    def __init__(self, path):
        self.image = path + "/image"
        self.mountpoint = path + "/state"

    def __enter__(self):
        with open(self.image, "wb") as file:
            file.truncate(96 * MIB)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)
        os.mkdir(self.mountpoint)
        subprocess.run(["mount", "-o", "loop", self.image, self.mountpoint], check=True)
        return self

    def freeze(self, still):
        subprocess.run(["fsfreeze", "-f" if still else "-u", self.mountpoint], check=True)

    def __exit__(self, *_):
        subprocess.run(["fsfreeze", "-u", self.mountpoint], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", self.mountpoint], check=True)


def a_disk_that_stands_still():
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "a frozen disk needs root"
        return
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with tempfile.TemporaryDirectory(prefix="bitmapd-frozen-") as scratch, memory() as path, \
            Frozen(scratch) as disk, Daemon(configured(path), disk.mountpoint) as daemon:
        client, waiting = daemon.client(), daemon.client()
        power, crash = two_drives(client)
        client.must(FLUSH)
        disk.freeze(True)
        cookie = waiting.request(MARK, mark(power, [(7 * G, 1)]))
        # With the other one's mark queued in front, these are done all the same.
        for i in range(2000):
            client.must(MARK, mark(crash, [(i * G, 1)]))
        waiting.socket.settimeout(0.3)
        try:
            raise AssertionError(waiting.reply())
        except TimeoutError:
            pass
        waiting.socket.settimeout(30)
        disk.freeze(False)
        assert waiting.reply()[2:4] == (OK, cookie)
        # More than the memory journal holds while the disk stands still: some wait, none is lost.
        disk.freeze(True)
        many = [((2000 + i) * G, 1) for i in range(30000)]
        cookies = [client.request(MARK, mark(crash, many[i:i + 3000], 1 + i * 3))
                   for i in range(0, 30000, 3000)]
        time.sleep(0.2)
        disk.freeze(False)
        assert {client.reply()[3] for _ in cookies} == set(cookies)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        client = daemon.client()
        assert granules(client, "crash/b") == set(range(32000))
        assert granules(client, "power/b") == {7}
        assert validity(client, "crash/b") == (EXACT, "")


def kills_under_load():
    """Some clients on both drives, write-backs in between; a kill at any time loses nothing that
    was acknowledged, and neither drive is unknown."""
    seed = int(os.environ.get("BITMAPD_TEST_SEED", random.randrange(1 << 32)))
    print("BITMAPD_TEST_SEED=%d" % seed, flush=True)
    chance = random.Random(seed)
    busy = ("flush:\n  interval: 100ms\n  dirty_limit: 1M\n")
    with memory() as path, Daemon(configured(path, busy)) as daemon:
        drives = two_drives(daemon.client())
        names = {drives[0]: "power/b", drives[1]: "crash/b"}
        acked = {drive: set() for drive in drives}

        def work(number, drive, seed):
            own = random.Random(seed)
            client = daemon.client()
            with contextlib.suppress(Closed, OSError):
                while True:
                    spots = [own.randrange(1 << 16) for _ in range(own.choice((1, 1, 1, 20, 300)))]
                    if client.call(MARK, mark(drive, [(s * G, 512) for s in spots]))[0] == OK:
                        acked[drive].update(spots)  # under the interpreter's lock

        for life in range(int(os.environ.get("BITMAPD_TEST_ROUNDS", 8))):
            threads = [threading.Thread(target=work, args=(i, drives[i % 4 != 0], chance.random()))
                       for i in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.05, 0.7))
            daemon.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
            daemon.start()
            client = daemon.client()
            for drive, name in names.items():
                assert validity(client, name) == (EXACT, ""), (life, validity(client, name))
                missed = acked[drive] - granules(client, name)
                assert not missed, (life, name, len(missed))
            if life % 3 == 2:
                for drive, name in names.items():
                    client.must(BITMAP_CLEAR, bitmap_range(name, 0, 0, 4))
                    acked[drive].clear()
        print({names[drive]: len(spots) for drive, spots in acked.items()})


if __name__ == "__main__":
    run((marks_are_there_after_a_kill, without_its_files_such_drives_are_unknown,
         a_daemon_that_looks_elsewhere, no_tmpfs_no_memory_journal, full_memory,
         a_disk_that_stands_still, kills_under_load))
