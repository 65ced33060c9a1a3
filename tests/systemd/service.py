#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""service.py PACKAGES…: the packages under a real systemd.

Installed, killed, stopped in the middle, reloaded, upgraded, rebooted, removed, while clients mark:
after each, every mark that was acknowledged is in the map.
"""

import json
import os
import shutil
import signal
import sys
import time

from machine import Machine, packages, run, wait_until
from load import SIZE, Load
from programs import need_root, need_tools

SERVICE = "bitmapd.service"
SOCKET = "/run/bitmapd/bitmapd.sock"
DRIVES = ("durable", "fast")  # power-loss, process-crash


class Test:
    def __init__(self, machine, packages):
        self.machine = machine
        self.packages = packages
        self.started = time.monotonic()
        self.load = None

    def say(self, words):
        print(f"{time.monotonic() - self.started:5.1f} s  {words}", flush=True)

    def ctl(self, *arguments, **options):
        return self.machine.run("bitmapctl", *arguments, **options)

    def show(self, name):
        return json.loads(self.ctl("-o", "json", "bitmap", "show", name).stdout)

    def more(self, count=200):
        """Lets the clients get some marks through."""
        goal = self.load.total() + count
        wait_until(lambda: self.load.total() >= goal, "marks are acknowledged")

    def settle(self, validity=("exact", "exact")):
        """Between two tests: nothing is missing, nobody was turned away."""
        self.more()
        self.load.pause()
        self.load.check()
        assert not self.load.refused, self.load.refused[:5]
        for drive, expected in zip(DRIVES, validity):
            found = self.show(f"{drive}/b")
            assert found["validity"] in (expected, "superset"), found
        self.load.go()

    # ---- What is tried ----

    def install(self):
        # The watchdog has to be caught in seconds, but not by a host that is busy.
        self.machine.write(f"etc/systemd/system/{SERVICE}.d/test.conf",
                           "[Service]\nWatchdogSec=6s\nRestartSec=200ms\n")
        self.machine.boot()
        self.say("booted")
        self.machine.install(self.packages)
        for unit in ("bitmapd.socket", SERVICE):
            assert self.machine.property(unit, "ActiveState") == "active", unit
            assert self.machine.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
        self.say("installed")

    def activate(self):
        """A connection starts it; whose process it is, and what is its own."""
        self.machine.run("systemctl", "stop", SERVICE)
        assert self.machine.property("bitmapd.socket", "ActiveState") == "active"
        for drive, durability in zip(DRIVES, ("power-loss", "process-crash")):
            self.ctl("drive", "add", drive, "--size", str(SIZE), "--durability", durability)
            self.ctl("bitmap", "create", f"{drive}/b")
        assert self.machine.property(SERVICE, "ActiveState") == "active"
        owner = os.stat(f"/proc/{self.machine.pid(SERVICE)}").st_uid
        user = self.machine.run("id", "-u", "bitmapd").stdout.strip()
        assert owner == int(user) != 0, (owner, user)
        status = self.machine.property(SERVICE, "StatusText")
        assert status.startswith("Tracking"), status
        self.load = Load(lambda: self.machine.path(SOCKET), DRIVES)
        self.load.go()
        self.settle()
        self.say("activated by a connection")

    def paths(self):
        """Drives of others can be looked at; what the sandbox hides is told."""
        machine = self.machine
        machine.run("sh", "-ec", "mkdir -m 0700 /srv/vm; truncate -s 1M /srv/vm/raw /tmp/raw; "
                                 "chmod 0600 /srv/vm/raw")
        self.ctl("drive", "add", "file", "--path", "/srv/vm/raw")
        hidden = self.ctl("drive", "add", "hidden", "--path", "/tmp/raw", check=False)
        assert hidden.returncode != 0 and "PrivateTmp=" in hidden.stderr, hidden
        self.say("drives of others")

    def kill(self):
        for _ in range(3):
            self.more(300)
            os.kill(self.machine.pid(SERVICE), signal.SIGKILL)
            self.settle()
        assert int(self.machine.property(SERVICE, "NRestarts")) >= 3
        self.say("killed three times")

    def freeze(self):
        """The watchdog ends one that does nothing any more."""
        before = int(self.machine.property(SERVICE, "NRestarts"))
        os.kill(self.machine.pid(SERVICE), signal.SIGSTOP)
        wait_until(lambda: int(self.machine.property(SERVICE, "NRestarts")) > before,
                   "the watchdog restarts it")
        self.settle()
        words = self.machine.run("journalctl", "--no-pager", "-u", SERVICE).stdout
        assert "Watchdog timeout" in words, words
        self.say("caught by the watchdog")

    def reload(self):
        config = "etc/bitmapd/bitmapd.yaml"
        with open(os.path.join(self.machine.root, config), encoding="utf-8") as file:
            good = file.read()
        before = self.machine.property(SERVICE, "MainPID")
        self.machine.write(config, "flush:\n  interval: 1s\n")
        self.machine.run("systemctl", "reload", SERVICE)
        self.machine.write(config, "flush:\n  interval: soon\n")
        failed = self.machine.run("systemctl", "reload", SERVICE, check=False)
        assert failed.returncode != 0
        words = self.machine.run("journalctl", "--no-pager", "-u", SERVICE).stdout
        assert "flush.interval" in words and "stays as it is" in words, words
        self.machine.write(config, good)
        os.kill(self.machine.pid(SERVICE), signal.SIGHUP)
        wait_until(lambda: self.machine.property(SERVICE, "ActiveState") == "active",
                   "the reload ends")
        assert self.machine.property(SERVICE, "MainPID") == before
        self.settle()
        self.say("reloaded")

    def upgrade(self):
        """The same under a higher version; clients are served on, or wait in the socket."""
        newer = []
        for package in self.packages:
            folder = os.path.join(self.machine.directory, "package")
            shutil.rmtree(folder, ignore_errors=True)
            run("dpkg-deb", "-R", package, folder)
            control = os.path.join(folder, "DEBIAN", "control")
            with open(control, encoding="utf-8") as file:
                text = file.read()
            version = next(line for line in text.splitlines()
                           if line.startswith("Version:")).split()[1]
            with open(control, "w", encoding="utf-8") as file:
                file.write(text.replace(version, f"{version}+newer"))
            newer.append(os.path.join(self.machine.root, os.path.basename(package)))
            run("dpkg-deb", "-Znone", "-b", folder, newer[-1])
        before = self.machine.property(SERVICE, "MainPID")
        opened = self.machine.property("bitmapd.socket", "ActiveEnterTimestampMonotonic")
        served = self.load.served
        self.machine.run("dpkg", "-i", *("/" + os.path.basename(path) for path in newer))
        assert self.machine.property(SERVICE, "MainPID") not in (before, "0")
        assert self.machine.property("bitmapd.socket", "ActiveEnterTimestampMonotonic") == opened
        self.settle()
        assert self.load.served > served
        self.say("upgraded")

    def downgrade(self):
        """The lower version over the higher one."""
        before = self.machine.property(SERVICE, "MainPID")
        self.machine.install(self.packages)
        assert self.machine.property(SERVICE, "MainPID") not in (before, "0")
        # It was stopped in order, which is all that an older daemon needs.
        assert "clean container" in self.ctl("status").stdout
        self.settle()
        self.say("downgraded")

    def instance(self):
        """Beside the other, with a container of its own."""
        self.machine.write("etc/bitmapd/two.yaml", "")
        self.machine.run("systemctl", "start", "bitmapd@two.socket")
        self.ctl("-s", "/run/bitmapd/two/bitmapd.sock", "drive", "add", "other", "--size", "1M")
        assert self.machine.property("bitmapd@two.service", "ActiveState") == "active"
        listing = self.machine.run("ls", "/var/lib/bitmapd/two", "/run/bitmapd/two").stdout.split()
        assert "bitmaps.qcow2" in listing and "journal.0" in listing, listing
        self.machine.run("systemctl", "reload", "bitmapd@two.service")
        # One without a configuration ends, and is not started over and over.
        self.machine.run("systemctl", "start", "bitmapd@none.service", check=False)
        assert self.machine.property("bitmapd@none.service", "ExecMainStatus") == "78"
        assert self.machine.property("bitmapd@none.service", "NRestarts") == "0"
        self.settle()
        self.say("an instance")

    def events(self):
        """A writer that is given up, as whoever reads the journal by fields sees it."""
        self.ctl("drive", "fence", "fast", check=False)
        self.machine.run("journalctl", "--sync")
        lines = self.machine.run("journalctl", "--no-pager", "-o", "json", "-u", SERVICE,
                                 "BITMAPD_EVENT=fenced").stdout.splitlines()
        assert lines, "no event in the journal"
        entry = json.loads(lines[0])
        assert entry["BITMAPD_DRIVE"] == "fast" and len(entry["MESSAGE_ID"]) == 32, entry
        assert entry["PRIORITY"] == "5" and "fenced" in entry["MESSAGE"], entry
        self.say("events")

    def reboot(self):
        self.load.pause()
        time.sleep(0.2)
        self.machine.power_off()
        self.machine.boot()
        assert self.machine.property(SERVICE, "ActiveState") == "active"
        self.load.refused.clear()
        self.load.go()
        # Ended in order, so nothing is in doubt, not even what only outlives a process.
        assert "clean container" in self.ctl("status").stdout
        self.settle()
        self.say("rebooted")

    def remove(self):
        self.load.end()
        self.machine.run("dpkg", "-r", "bitmapd")
        state = os.path.join(self.machine.root, "var/lib/bitmapd/bitmaps.qcow2")
        assert os.path.exists(state) and not self.machine.pid(SERVICE)
        assert "no-such" not in self.machine.run(
            "bitmapctl", "container", "check", "/var/lib/bitmapd/bitmaps.qcow2").stdout
        self.machine.run("dpkg", "-P", "bitmapd")
        assert not os.path.exists(state)
        self.say("removed")


def check_sandbox(test):
    """Nothing that the service tried was denied by its system call filter."""
    words = test.machine.run("journalctl", "--no-pager", "-u", SERVICE).stdout
    lines = [line for line in words.splitlines()
             if "SIGSYS" in line or " bitmapd[" in line and "not permitted" in line]
    assert not lines, lines


def main(patterns):
    need_root()
    need_tools("systemd-nspawn", "dpkg", "dpkg-deb", "nsenter", "mount")
    with Machine() as machine:
        test = Test(machine, packages(patterns))
        try:
            test.install()
            test.activate()
            test.paths()
            test.kill()
            test.freeze()
            test.reload()
            test.upgrade()
            test.downgrade()
            test.instance()
            test.events()
            test.reboot()
            check_sandbox(test)
            test.remove()
        except BaseException:
            machine.tell()
            raise
        print(f"{len(DRIVES)} drives, {test.load.total()} marks acknowledged, none missing")


if __name__ == "__main__":
    main(sys.argv[1:])
