# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as an instance of the packaged bitmapd@.service, in all of its sandbox, with what Process
has, so that a test does not see the difference.

What differs from the package: a command line, where it may write, and that nothing but the test starts
it again.  And a system call that the filter denies kills, where the package has it fail: what goes on
after an EPERM would prove nothing.
"""

import os
import shutil
import signal

from programs import run, wait_until

UNITS = "/run/systemd/system"
USER = "bitmapd"
DROP_IN = """[Service]
ExecStart=
ExecStart={command}
ReadWritePaths={writable}
StandardOutput=append:{log}
StandardError=append:{log}
Restart=no
SystemCallErrorNumber=
"""


def give(directory):
    """What the daemon is to write to, as its user."""
    shutil.chown(directory, USER, USER)
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False):
            shutil.chown(entry.path, USER, USER)


class Unit:
    def __init__(self, unit, log, command):
        self.unit = self.name = unit
        self.log = log
        with open(log, "ab") as file:
            self.begin = file.tell()
        self.length = -1  # of what it has said, once it has ended
        # Its socket would start it whenever somebody connects.
        socket = os.path.join(UNITS, unit.replace(".service", ".socket"))
        if not os.path.lexists(socket):
            os.symlink("/dev/null", socket)
        self.write_drop_in(command)
        run("systemctl", "reset-failed", unit, check=False)
        run("systemctl", "start", "--no-block", unit)
        wait_until(lambda: self.show("MainPID") != "0" or self.show("Job") in ("", "0"),
                   f"{unit} has a process")

    def write_drop_in(self, command):
        path = os.path.join(UNITS, f"{self.unit}.d", "test.conf")
        text = DROP_IN.format(command=" ".join(command), writable=os.environ["TMPDIR"], log=self.log)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                if file.read() == text:
                    return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        run("systemctl", "daemon-reload")

    def show(self, name):
        return run("systemctl", "show", "--value", "-p", name, self.unit).stdout.strip()

    def running(self):
        return self.show("ActiveState") not in ("inactive", "failed")

    def text(self):
        with open(self.log, "rb") as file:
            file.seek(self.begin)
            return file.read(self.length).decode(errors="replace")

    def check_running(self):
        if not self.running():
            raise AssertionError(f"{self.name} ended with {self.wait()}:\n{self.text()}")

    def signal(self, number):
        run("systemctl", "kill", "--kill-whom=main", f"--signal={int(number)}", self.unit)

    def wait(self):
        """Its exit code, or the number of the signal below zero."""
        wait_until(lambda: not self.running(), f"{self.name} ends")
        self.length = os.path.getsize(self.log) - self.begin
        status = int(self.show("ExecMainStatus"))
        code = status if self.show("ExecMainCode") == "1" else -status
        assert code != -signal.SIGSYS, f"{self.name}: the system call filter killed it"
        return code

    def stop(self):
        self.check_running()
        run("systemctl", "stop", self.unit)
        code = self.wait()
        assert (code, self.show("Result")) == (0, "success"), \
            f"{self.name}: exit {code}, {self.show('Result')} after a stop:\n{self.text()}"

    def kill(self):
        self.check_running()
        self.signal(signal.SIGKILL)
        code = self.wait()
        assert code == -signal.SIGKILL, f"{self.name}: exit {code}:\n{self.text()}"

    def end(self):
        run("systemctl", "stop", self.unit, check=False)
