#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""host.py PACKAGES…: what a host asks of the unit besides running it.

Block devices are seen, and nothing but the unit's own line lets them be; what runs guests starts later
and stops earlier; a state directory with a file system of its own is mounted first; and the last
write-back of a thousand drives may take as long as it takes.
"""

import contextlib
import json
import os
import re
import sys
import time

from machine import HERE, Machine, packages, wait_until
from programs import need_root, need_tools

sys.path.append(os.path.join(HERE, "..", "server"))

from wire import (  # noqa: E402
    BITMAP_CREATE, DRIVE_ADD, MARK, OK, Client, bitmap_create, drive_add, drive_id, frame, mark)

SERVICE = "bitmapd.service"
GUESTS = "libvirtd.service"
MIB = 1 << 20
LOOP_MIB = 8

# A guest's last write is while its service stops.
GUESTS_UNIT = """[Service]
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c "sleep 1; bitmapctl mark guest 1M 1"
[Install]
WantedBy=multi-user.target
"""
DUMMY_UNIT = """[Service]
ExecStart=/bin/sleep infinity
"""
MOUNT_UNIT = """[Mount]
What=tmpfs
Type=tmpfs
Where=/var/lib/bitmapd/lun
"""

DRIVES = 1000
SIZE = 1 << 40
CHUNK = 65536 * 8 * 65536  # bytes of a drive behind one cluster of a bitmap
CHUNKS = 4                 # that are written in each drive, each time
TIMEOUT_S = 4
WRITES = "pwrite64,pwritev,pwritev2"
STRACE = "/srv/strace"
MANY_CONFIG = "flush: {interval: 1h, dirty_limit: 4G}\n"
MANY_DROP_IN = f"[Service]\nRestart=no\nTimeoutStopSec={TIMEOUT_S}s\n"
# As if it never asked for more time: nobody listens.
DEAF_DROP_IN = "[Service]\nType=simple\nNotifyAccess=none\nWatchdogSec=0\n"


class Test:
    def __init__(self, machine):
        self.machine = machine
        self.started = time.monotonic()

    def say(self, words):
        print(f"{time.monotonic() - self.started:5.1f} s  {words}", flush=True)

    def ctl(self, *arguments, instance=None, **options):
        folder = f"bitmapd/{instance}" if instance else "bitmapd"
        return self.machine.run("bitmapctl", "-s", f"/run/{folder}/bitmapd.sock", *arguments, **options)

    def unit(self, name, text):
        self.machine.write(f"etc/systemd/system/{name}", text)

    # ---- Devices ----

    def devices(self):
        """A disk of root's is looked at, as the unit comes; without its line it is not."""
        machine = self.machine
        machine.run("truncate", "-s", f"{LOOP_MIB}M", "/srv/disk")
        with contextlib.ExitStack() as stack:
            device = machine.run("losetup", "--find", "--show", "/srv/disk").stdout.strip()
            stack.callback(machine.run, "losetup", "--detach", device)
            self.ctl("drive", "add", "disk", "--path", device)
            shown = self.ctl("drive", "show", "disk").stdout
            assert f"{LOOP_MIB * MIB} ({LOOP_MIB}M)" in shown, shown
            assert "loop device over file" in shown, shown
            self.machine.write("etc/bitmapd/closed.yaml", "")
            self.unit("bitmapd@closed.service.d/test.conf", "[Service]\nDeviceAllow=\n")
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "start", "bitmapd@closed.service")
            refused = self.ctl("drive", "add", "disk", "--path", device, instance="closed",
                               check=False)
            assert refused.returncode == 1 and "DeviceAllow=" in refused.stderr, refused
        self.say("devices")

    # ---- Order ----

    def order(self):
        """Each unit that runs guests is after us, if it is there; what a guest's service writes
        when the host goes down is marked, and the container is clean."""
        machine = self.machine
        text = machine.run("systemctl", "cat", SERVICE).stdout
        named = set(" ".join(re.findall(r"^Before=(.*)", text, re.M)).split())
        assert GUESTS in named, named
        for name in named:
            self.unit(name, GUESTS_UNIT if name == GUESTS else DUMMY_UNIT)
        self.unit("var-lib-bitmapd-lun.mount", MOUNT_UNIT)
        self.machine.write("etc/bitmapd/lun.yaml", "")
        machine.run("systemctl", "daemon-reload")
        for ours in (SERVICE, "bitmapd.socket", "bitmapd@lun.service", "bitmapd@lun.socket"):
            before = set(machine.property(ours, "Before").split())
            assert named <= before, (ours, named - before)
        self.ctl("drive", "add", "guest", "--size", "1G")
        self.ctl("bitmap", "create", "guest/b")
        machine.run("systemctl", "enable", "--now", GUESTS)

        machine.run("systemctl", "start", "bitmapd@lun.service")
        assert machine.property("var-lib-bitmapd-lun.mount", "ActiveState") == "active"
        mounted = machine.run("stat", "--format=%T", "--file-system",
                              "/var/lib/bitmapd/lun/bitmaps.qcow2")
        assert mounted.stdout == "tmpfs\n", mounted
        # Only when it has ended, too.
        machine.run("systemctl", "stop", "var-lib-bitmapd-lun.mount")
        assert machine.property("bitmapd@lun.service", "ActiveState") == "inactive"
        assert machine.property("bitmapd@lun.service", "Result") == "success"

        machine.power_off()
        machine.boot()
        assert "clean container" in self.ctl("status").stdout
        runs = json.loads(self.ctl("-o", "json", "map", "guest/b").stdout)
        dirty = [(run["offset"], run["length"]) for run in runs if run["type"] == 1]
        assert dirty == [(MIB, 65536)], runs
        self.say("order")

    # ---- The last write-back ----

    def client(self):
        return Client(self.machine.path("/run/bitmapd/many/bitmapd.sock"), timeout=60)

    def make_many(self):
        self.machine.write("etc/bitmapd/many.yaml", MANY_CONFIG)
        self.unit("bitmapd@many.service.d/test.conf", MANY_DROP_IN)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "start", "bitmapd@many.service")
        client = self.client()
        for operation, payload in (
                (DRIVE_ADD, lambda i: drive_add(f"vm{i}", SIZE, durability=1 + i % 2)),
                (BITMAP_CREATE, lambda i: bitmap_create(f"vm{i}/b", 65536))):
            replies = self.ask(client, operation, [payload(i) for i in range(DRIVES)])
            if operation == DRIVE_ADD:
                self.drives = [drive_id(body) for body in replies]
        client.close()
        self.marked = 0

    @staticmethod
    def ask(client, operation, payloads):
        """All at once."""
        replies = {}
        for first in range(0, len(payloads), 100):
            part = payloads[first:first + 100]
            client.send(b"".join(frame(operation, payload, first + i)
                                 for i, payload in enumerate(part)))
            for _ in part:
                _, _, status, cookie, body = client.reply()
                assert status == OK, (status, body)
                replies[cookie] = body
        return [replies[i] for i in range(len(payloads))]

    def mark_many(self):
        """Some more chunks of each, none of which any container has yet."""
        client = self.client()
        first, self.marked = self.marked, self.marked + CHUNKS
        self.ask(client, MARK, [
            mark(drive, [(i * CHUNK, 1) for i in range(first, self.marked)])
            for drive in self.drives])
        client.close()

    def check_many(self):
        client = self.client()
        expected = [(i * CHUNK, 65536) for i in range(self.marked)]
        for i in range(DRIVES):
            found = client.map(f"vm{i}/b")
            assert found == expected, (i, found)
        client.close()

    def stop_many(self, *options):
        """Under strace, with its @options about writes."""
        machine = self.machine
        strace = machine.start(
            "strace", "-f", "-o", STRACE, "-e", f"trace={WRITES}", *options, "-p",
            machine.property("bitmapd@many.service", "MainPID"))
        try:
            assert "attached" in strace.stdout.readline()
            machine.run("systemctl", "stop", "bitmapd@many.service")
        finally:
            strace.wait(60)
        return machine.property("bitmapd@many.service", "Result")

    def start_many(self):
        self.machine.run("systemctl", "start", "bitmapd@many.service")
        words = self.ctl("status", instance="many").stdout
        self.check_many()
        return words

    def slowly(self):
        """A disk that takes some time for each write, much more than the time-out in all."""
        path = os.path.join(self.machine.root, STRACE.lstrip("/"))
        with open(path, encoding="utf-8") as file:
            counts = [int(line.split()[3]) for line in file if line.rstrip().endswith("total")]
        return "-e", f"inject={WRITES}:delay_enter={2 * TIMEOUT_S * 1000000 // counts[0]}us"

    def last_write_back(self):
        self.make_many()
        self.mark_many()
        assert self.stop_many("-c") == "success"
        slowly = self.slowly()
        # Where nobody hears that it needs more time, it is cut off: it does take that long, and the
        # journal has everything.
        self.unit("bitmapd@many.service.d/z-deaf.conf", DEAF_DROP_IN)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", "bitmapd@many.service")
        wait_until(lambda: self.ctl("status", instance="many", check=False).returncode == 0,
                   "it answers")
        self.mark_many()
        assert self.stop_many(*slowly) == "timeout"
        self.say("a last write-back that is cut off")
        self.unit("bitmapd@many.service.d/z-deaf.conf", "")
        self.machine.run("systemctl", "daemon-reload")
        assert "not closed cleanly" in self.start_many()
        self.mark_many()
        assert self.stop_many(*slowly) == "success"
        assert "clean container" in self.start_many()
        self.say(f"a last write-back of {DRIVES} drives")


def main(patterns):
    need_root()
    need_tools("systemd-nspawn", "dpkg", "nsenter", "mount", "losetup", "strace")
    with Machine() as machine:
        test = Test(machine)
        try:
            machine.boot()
            machine.install(packages(patterns))
            test.say("installed")
            test.devices()
            test.order()
            test.last_write_back()
        except BaseException:
            machine.tell()
            raise


if __name__ == "__main__":
    main(sys.argv[1:])
