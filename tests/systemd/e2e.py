#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""e2e.py quick|all PACKAGES…: the end-to-end tests (tests/e2e) against the packages, with the daemon
as bitmapd@.service runs it.

Whatever it does under faults, kills and full disks has to be possible in its sandbox.  One test is run
once more where the filter lacks a call, and has to fail.
"""

import concurrent.futures
import os
import sys
import tempfile
import time

from machine import HERE, Machine, packages
from programs import need_root, need_tools, run, skip

# compare is about no daemon.
QUICK = ("requests", "outage", "faults", "refusals", "clients", "block", "evidence", "ext4",
         "state_full")
ALL = (*QUICK, "crash", "power_loss", "state_faults", "background", "qemu", "backups",
       "backups_crash", "continues")
SCRATCH = "/srv/bitmapd-e2e"
TESTS = "/srv/bitmapd-tests"
CANARY = "refusals"
NEEDED_CALL = "fdatasync"
EXT4 = "/sys/fs/ext4"  # where a test has a file system fail, and looks what has gone wrong in one


class Tests:
    def __init__(self, machine):
        self.machine = machine
        plugins = machine.run("nbdkit", "--dump-config").stdout
        plugins = next(line.split("=")[1] for line in plugins.splitlines()
                       if line.startswith("plugindir="))
        self.environment = [
            f"TMPDIR={SCRATCH}", "BITMAPD=/usr/bin/bitmapd", "BITMAPCTL=/usr/bin/bitmapctl",
            f"BITMAPD_PLUGIN={plugins}/nbdkit-bitmapd-plugin.so",
            *(f"{name}={os.environ[name]}" for name in ("CI", "BITMAPD_TEST_ROUNDS")
              if name in os.environ)]

    def run(self, name, instance=None):
        began = time.monotonic()
        result = self.machine.run(
            "env", *self.environment, f"BITMAPD_TEST_UNIT=bitmapd@{instance or name}.service",
            "python3", "-B", f"{TESTS}/e2e/{name}.py", check=False, timeout=3600)
        return result, time.monotonic() - began

    def all_pass(self, names):
        failed = []
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for name, (result, seconds) in zip(names, pool.map(self.run, names)):
                print(f"{seconds:5.1f} s  {name}: {result.returncode}", flush=True)
                if result.returncode not in (0, 77):  # 77: it has not what it needs, and this is no CI
                    failed.append(name)
                    print(result.stdout, result.stderr, flush=True)
        assert not failed, f"failed: {' '.join(failed)}"

    def without_a_call(self):
        self.machine.write("etc/systemd/system/bitmapd@poor.service.d/poor.conf",
                           f"[Service]\nSystemCallFilter=~{NEEDED_CALL}\n")
        result, seconds = self.run(CANARY, "poor")
        print(f"{seconds:5.1f} s  {CANARY} without {NEEDED_CALL}: {result.returncode}", flush=True)
        assert result.returncode == 1 and "the system call filter" in result.stderr, result


def need_ext4():
    """The folder is there once the kernel has that file system, which a container cannot load."""
    if not os.path.isdir(EXT4):
        run("sh", "-c", "modprobe ext4", check=False)
    if not os.path.isdir(EXT4):
        skip("this kernel has no ext4")


def main(which, patterns):
    need_root()
    need_tools("systemd-nspawn", "dpkg", "nsenter", "mount")
    need_ext4()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bitmapd-e2e-") as scratch, Machine(
            f"--bind={scratch}:{SCRATCH}", f"--bind-ro={os.path.join(HERE, '..')}:{TESTS}",
            f"--bind={EXT4}") as machine:
        os.chmod(scratch, 0o755)
        machine.boot()
        machine.install(packages(patterns))
        tests = Tests(machine)
        tests.all_pass(QUICK if which == "quick" else ALL)
        tests.without_a_call()
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
