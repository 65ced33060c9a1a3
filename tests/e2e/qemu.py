#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU and bitmapd on one file: an external container, and one inside a disk image.

While one of them has the file, the other stays out.  When QEMU has written to a
container that was stopped, the next start notices, says so, and keeps what the
checksums prove: what was dirty is dirty, or its bitmap is unknown, or said to be
lost.  So after a repair that was killed at any of its steps.  And the disk of an
internal container is QEMU's, whatever bitmapd does."""

import json
import os
import shutil
import subprocess

import stack as e2e

MIB = 1 << 20
BITMAPS = {
    "vm1/a": [(0, MIB), (5 * MIB, 65536)],
    "vm1/b": [(64 * MIB - 65536, 65536)],
    "vm1/none": [],
    "vm2/a": [(MIB, 2 * MIB)],
}


class Container(e2e.Stack):
    """A daemon's state, in a container of its own or in the image of a disk."""

    def __init__(self, internal, snapshots):
        super().__init__()
        self.internal = internal
        self.snapshots = snapshots

    def __enter__(self):
        super().__enter__()
        self.file = self.path("bitmaps.qcow2")
        if self.internal:
            e2e.run("qemu-img", "create", "-q", "-f", "qcow2", self.path("base.qcow2"), "32M")
            self.io("write -P 9 20M 1M", path=self.path("base.qcow2"))
            e2e.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2",
                    "-o", "lazy_refcounts=on", self.file)
            self.io("write -P 1 0 1M", "write -c -P 2 8M 64k")
            if self.snapshots:
                e2e.run("qemu-img", "snapshot", "-c", "one", self.file)
            self.io("write -P 3 512k 1M")
            self.offline("create", "--internal")
        return self

    def io(self, *commands, path=None, check=True):
        words = [word for command in commands for word in ("-c", command)]
        return e2e.run("qemu-io", "-f", "qcow2", *words, path or self.file, check=check)

    def offline(self, verb, *options, code=0):
        result = e2e.run(
            os.environ["BITMAPCTL"], "container", verb, *options, self.file, check=False)
        assert result.returncode in (code if isinstance(code, tuple) else (code,)), (verb, result)
        return result

    def fill(self):
        """Drives and bitmaps, written back; the daemon stops."""
        self.start_daemon()
        for drive in ("vm1", "vm2"):
            self.ctl("drive", "add", drive, "--path", self.make_raw(drive, 64 * MIB))
        for bitmap, ranges in BITMAPS.items():
            self.ctl("bitmap", "create", bitmap)
            for offset, length in ranges:
                self.ctl("bitmap", "set", bitmap, str(offset), str(length))
        self.daemon_stops()

    def save(self):
        with open(self.file, "rb") as file:
            return file.read()

    def restore(self, content):
        """Into the same file: another one would be a copy, of which bitmapd believes nothing.
        Nor would it believe one that is older than its journal."""
        for name in os.listdir(self.directory):
            if name.startswith("journal."):
                os.unlink(self.path(name))
        with open(self.file, "r+b") as file:
            file.truncate(0)
            file.write(content)

    def state_of_bitmaps(self):
        """{bitmap: dirty ranges, or None when it is unknown}"""
        found = {}
        for shown in self.ctl_json("bitmap", "list")["bitmaps"]:
            name = f"{shown['drive']}/{shown['name']}"
            unknown = shown["validity"] == "unknown"
            found[name] = None if unknown else self.dirty_ranges(name)
        return found

    def nothing_is_lost_silently(self):
        """Of a daemon that runs.  Returns how many bitmaps are exact, unknown, lost.

        In an image with snapshots there is no bit to tell who it was: what did no harm may go
        unnoticed, and what did is known by what it did."""
        found, log = self.state_of_bitmaps(), self.daemon.text()
        lost = [name for name in BITMAPS if name not in found]
        unknown = [name for name in found if found[name] is None]
        for name, ranges in BITMAPS.items():
            if found.get(name) is not None:
                assert found[name] == ranges, (name, found[name])
        if not self.snapshots:
            assert "another program opened it for writing" in log, log
        if lost:
            assert f"{len(lost)} bitmaps are lost" in log, log
        if unknown:
            assert f"{len(unknown)} unknown" in log, log
        return len(BITMAPS) - len(lost) - len(unknown), len(unknown), len(lost)

    def disk_is_sound(self, copy):
        """The disk is what it was in @copy, as QEMU left it, and QEMU finds no fault."""
        result = e2e.run("qemu-img", "check", "--output=json", self.file, check=False)
        report = json.loads(result.stdout)
        assert report["check-errors"] == 0 and not report.get("corruptions"), report
        if self.internal:
            e2e.run("qemu-img", "compare", copy, self.file)
        if self.snapshots:
            for path in (copy, self.file):
                shutil.copyfile(path, path + ".snapshot")
                e2e.run("qemu-img", "snapshot", "-a", "one", path + ".snapshot")
            e2e.run("qemu-img", "compare", copy + ".snapshot", self.file + ".snapshot")

    def start_on_what_qemu_left(self):
        """Starts, judges, uses, and stops.  Returns the counts of bitmaps."""
        copy = shutil.copyfile(self.file, self.path("copy"))
        self.start_daemon()
        counts = self.nothing_is_lost_silently()
        if "vm3" not in [d["name"] for d in self.ctl_json("drive", "list")["drives"]]:
            self.ctl("drive", "add", "vm3", "--size", "1G")
        self.ctl("bitmap", "create", "vm3/new")
        self.ctl("bitmap", "set", "vm3/new", "0", "64K")
        self.daemon_stops()
        # Clusters that something damaged may have referred to are kept until the next start.
        self.offline("check", code=(0, 3))
        self.disk_is_sound(copy)
        # What was decided stays so, and is no news any more.
        self.start_daemon()
        assert "another program" not in self.daemon.text(), self.daemon.text()
        assert self.dirty_ranges("vm3/new") == [(0, 65536)]
        self.daemon_stops()
        self.offline("check")
        return counts


def test_bitmapd_has_it(stack):
    stack.start_daemon()
    writers = [
        ("qemu-img", "check", "-r", "all", stack.file),
        ("qemu-img", "check", "-r", "leaks", stack.file),
        ("qemu-img", "amend", "-o", "lazy_refcounts=off", stack.file),
        ("qemu-img", "snapshot", "-c", "two", stack.file),
        ("qemu-img", "resize", stack.file, "128M"),
        ("qemu-img", "bitmap", "--add", stack.file, "b"),
        ("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", stack.path("vm1"), stack.file),
        ("qemu-io", "-f", "qcow2", "-c", "write 0 64k", stack.file),
        ("qemu-io", "-f", "qcow2", "-c", "flush", stack.file),
        ("qemu-img", "check", stack.file),
    ]
    before = stack.save()
    for command in writers:
        result = e2e.run(*command, check=False)
        assert result.returncode != 0, command
        assert "lock" in result.stderr and "another process" in result.stderr, (command, result)
    assert stack.save() == before
    e2e.run("qemu-img", "info", "-U", stack.file)
    stack.offline("info")
    assert "in use" in stack.offline("check", code=5).stderr
    assert "in use" in stack.offline("create", "--internal", code=5).stderr
    assert stack.state_of_bitmaps() == BITMAPS
    stack.ctl("flush")
    stack.daemon_stops()
    stack.offline("check")


def start_is_refused(stack):
    process = stack.start(
        "bitmapd-refused", [os.environ["BITMAPD"], "--state-dir", stack.directory])
    assert process.wait() == 1, process.text()
    assert "the image is in use" in process.text() and stack.file in process.text(), process.text()


def test_qemu_has_it(stack):
    before = stack.save()
    for options in ([], ["-r"]):
        socket = stack.path("qemu-nbd.sock")
        server = stack.start(
            "qemu-nbd", ["qemu-nbd", *options, "-f", "qcow2", "-t", "-k", socket, stack.file])
        e2e.wait_until(lambda s=socket: e2e.accepts(s), "qemu-nbd listens")
        start_is_refused(stack)
        assert "in use" in stack.offline("check", code=5).stderr
        assert "in use" in stack.offline("create", "--internal", code=5).stderr
        if options:
            stack.offline("info")  # two readers
        else:
            assert "in use" in stack.offline("info", code=5).stderr
        server.signal(15)
        server.wait()
        if os.path.exists(socket):
            os.unlink(socket)
    # A write-open alone is a write to the header.
    stack.restore(before)


def test_tripwire(stack, pristine):
    """What QEMU does to a container that is stopped, and what is left of the bitmaps then."""
    write = "write -P 5 3M 2M" if stack.internal else "flush"
    cases = {
        "a writing open": [("qemu-io", "-f", "qcow2", "-c", write, stack.file)],
        "amend": [("qemu-img", "amend", "-o", "lazy_refcounts=on", stack.file)],
        "repair": [("qemu-img", "check", "-q", "-r", "all", stack.file)],
        "repair of leaks": [("qemu-img", "check", "-q", "-r", "leaks", stack.file)],
        "a snapshot": [("qemu-img", "snapshot", "-c", "two", stack.file)],
    }
    if stack.internal:
        cases["repair, and the disk takes our clusters"] = [
            *cases["repair"], ("qemu-io", "-f", "qcow2", "-c", "write -P 6 10M 8M", stack.file)]
        cases["growth"] = [
            ("qemu-img", "resize", "-q", stack.file, "80G"),
            ("qemu-io", "-f", "qcow2", "-c", "write -P 7 70G 1M", stack.file)]
        cases["a new base"] = [("qemu-img", "rebase", "-u", "-b", "", stack.file)]
    for what, commands in cases.items():
        stack.restore(pristine)
        for command in commands:
            e2e.run(*command)
        exact, unknown, lost = stack.start_on_what_qemu_left()
        print(f"{what}: {exact} bitmaps exact, {unknown} unknown, {lost} lost")
        if "repair" in what:
            assert exact == 0
        else:
            assert exact == len(BITMAPS), what


def killed_repair(stack, call, number):
    return subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
         "-e", f"inject={call}:signal=SIGKILL:when={number}",
         "qemu-img", "check", "-q", "-r", "all",
         # strace counts the calls of each thread: there is to be one for I/O.
         "--object", "main-loop,id=main-loop,thread-pool-min=1,thread-pool-max=1", stack.file],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False).returncode


def test_killed_repairs(stack, pristine):
    seen = set()
    for call in ("pwrite64", "fallocate", "fdatasync"):
        for number in range(1, 100):
            stack.restore(pristine)
            code = killed_repair(stack, call, number)
            content = stack.save()
            copy = shutil.copyfile(stack.file, stack.path("copy"))
            if code == 0:
                break
            stack.start_daemon()
            if content == pristine:
                assert stack.state_of_bitmaps() == BITMAPS
                assert "another program" not in stack.daemon.text(), stack.daemon.text()
            else:
                seen.add(stack.nothing_is_lost_silently())
            stack.daemon_stops()
            stack.offline("check", code=(0, 3))
            stack.disk_is_sound(copy)
        print(f"{call}: killed at {number - 1} calls")
        assert number > 1 or call == "fdatasync"
    print(f"exact, unknown, lost: {sorted(seen)}")


def test_marks_in_the_journal(stack, pristine):
    """The daemon was killed, QEMU came, and marks were in the journal only."""
    for command in (("qemu-io", "-f", "qcow2", "-c", "flush", stack.file),
                    ("qemu-img", "check", "-q", "-r", "all", stack.file)):
        stack.restore(pristine)
        stack.start_daemon()
        stack.ctl("mark", "vm1", str(30 * MIB), "1M")
        stack.daemon_dies()
        e2e.run(*command)
        stack.start_daemon()
        found = stack.state_of_bitmaps()
        log = stack.daemon.text()
        if command[0] == "qemu-io":
            for name, ranges in BITMAPS.items():
                marked = [(30 * MIB, MIB)] if name.startswith("vm1/") else []
                assert found[name] is not None, found
                assert sorted(found[name]) == sorted(ranges + marked), (name, found)
        else:
            for name in BITMAPS:
                assert found.get(name) is None, found
            assert "lost" in log or "unknown" in log, log
        if not stack.snapshots or command[0] == "qemu-img":
            assert "another program opened it for writing" in log, log
        stack.daemon_stops()


def test_unprepared(stack):
    """A disk image that nobody has prepared is not taken, and told how it could be."""
    plain = stack.path("plain.qcow2")
    e2e.run("qemu-img", "create", "-q", "-f", "qcow2", plain, "8M")
    config = stack.path("config.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(f"container:\n  path: {plain}\n")
    with open(plain, "rb") as file:
        before = file.read()
    command = [os.environ["BITMAPD"], "--state-dir", stack.directory, "--config", config]
    process = stack.start("bitmapd-refused", command)
    assert process.wait() == 65, process.text()
    assert "bitmapctl container create --internal" in process.text(), process.text()
    with open(plain, "rb") as file:
        assert file.read() == before
    e2e.run(os.environ["BITMAPCTL"], "container", "create", "--internal", plain)
    stack.start_daemon("--config", config)
    stack.ctl("drive", "add", "other", "--size", "1G")
    stack.ctl("bitmap", "create", "other/b")
    stack.daemon_stops()
    told = json.loads(
        e2e.run(os.environ["BITMAPCTL"], "-o", "json", "container", "info", plain).stdout)
    assert [bitmap["name"] for bitmap in told["bitmaps"]] == ["other/b"], told
    assert told["virtual_size"] == 8 * MIB, told


def main():
    e2e.need_tools("qemu-img", "qemu-io", "qemu-nbd", "strace")
    for internal, snapshots in ((False, False), (True, False), (True, True)):
        print("internal" if internal else "external", "with snapshots" if snapshots else "")
        with Container(internal, snapshots) as stack:
            stack.fill()
            pristine = stack.save()
            stack.offline("check")
            stack.disk_is_sound(shutil.copyfile(stack.file, stack.path("copy")))
            test_bitmapd_has_it(stack)
            test_qemu_has_it(stack)
            test_tripwire(stack, pristine)
            test_killed_repairs(stack, pristine)
            test_marks_in_the_journal(stack, pristine)
            if snapshots:
                test_unprepared(stack)


if __name__ == "__main__":
    main()
