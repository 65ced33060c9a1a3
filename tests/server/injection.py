# SPDX-License-Identifier: LGPL-2.1-or-later
"""Has one call of one thread of a daemon fail, or kill the daemon: what strace can inject.

strace counts calls for `when=N` by thread and by name, so a small N in a process that is traced
whole only ever means the start, which is the main thread's.  Therefore one thread is traced at a
time: the main one from exec on, the others by attaching to them once the daemon listens.  A SIGKILL
comes in place of the call: the daemon dies after all that came before it.
"""

import collections
import os
import re
import signal
import subprocess
import time

from wire import *

POLL = 0.005

# Calls that change a file or a directory, or make sure that it is on the disk.
CHANGES = ("pwrite64", "fdatasync", "fsync", "rename", "renameat2", "unlink", "ftruncate",
           "fallocate")
READS = ("openat", "pread64")
# What each call can fail with, or "kill".
EFFECTS = {
    "kill": CHANGES,
    "EIO": CHANGES + READS,
    "ENOSPC": ("pwrite64", "fdatasync", "fsync", "rename", "renameat2", "fallocate", "openat"),
}

# Of the daemon's own files; what becomes of the catalog matters to no answer.
FILES = ("bitmaps.qcow2", "journal.", "bitmapd.sock")

Call = collections.namedtuple("Call", "name number file")  # the number-th of that name


class Injection(collections.namedtuple("Injection", "call effect lasting", defaults=(False,))):
    """@lasting: every call of that name from this one on."""

    def option(self):
        what = "signal=SIGKILL" if self.effect == "kill" else "error=" + self.effect
        return "inject=%s:%s:when=%d%s" % (self.call.name, what, self.call.number,
                                           "+" if self.lasting else "")

    def __str__(self):
        return "%s at %s %d%s (%s)" % (self.effect, self.call.name, self.call.number,
                                       " and on" if self.lasting else "", self.call.file)


class Trace:
    """strace's log of one thread, or of several."""

    # With -y a descriptor is followed by its path; in calls without one the first string is one.
    LINE = re.compile(r"""(?:\d+ +)?(\w+)\((?:\d+<([^>]*)>|[^"]*"([^"]*)")""")

    def __init__(self, directory, name):
        self.directory = directory
        self.path = os.path.join(directory, name)
        open(self.path, "w").close()

    def options(self, injections):
        """@injections: of calls of different names; None is none."""
        injections = [injection for injection in injections if injection]
        names = [injection.call.name for injection in injections] or CHANGES + READS
        options = ["-q", "-y", "-e", "signal=none", "-o", self.path]
        options += ["-e", "trace=" + ",".join(names)]
        for injection in injections:
            options += ["-e", injection.option()]
        return options

    def lines(self):
        with open(self.path) as file:
            return file.read().splitlines()

    def calls(self):
        """Those on the daemon's files and on their directory, each with its number among all calls
        of that name."""
        numbers, calls = collections.Counter(), []
        for line in self.lines():
            match = self.LINE.match(line)
            if match:
                name, descriptor, path = match.groups()
                numbers[name] += 1
                file = os.path.relpath(descriptor or path, self.directory)
                if file == "." or file.startswith(FILES):
                    calls.append(Call(name, numbers[name], file))
        return calls

    def injected(self, call):
        return any(call.name in line and "(INJECTED)" in line for line in self.lines())


class TracedDaemon(Daemon):
    """A daemon whose main thread is traced from exec on, and which may never come to listen."""

    def __init__(self, trace, injections, **kwargs):
        super().__init__(**kwargs)
        # -D: the daemon is our child, and strace a grandchild, which ends with it.
        self.arguments = ["strace", "-D"] + trace.options(injections) + self.arguments

    def attempt(self):
        """Starts it.  A client of it; None when it has ended."""
        self.spawn()
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            try:
                return self.client()
            except (FileNotFoundError, ConnectionError, Closed):
                assert time.monotonic() < deadline, "it neither listens nor ends"
                time.sleep(POLL)
        return None


def thread_of(daemon, name):
    """The id of its thread @name, "main" being the first one."""
    pid = daemon.process.pid
    if name == "main":
        return pid
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, tid)) as file:
            if file.read().strip() == name:
                return int(tid)
    raise AssertionError("the daemon has no thread " + name)


class Attached:
    """strace at threads of a running daemon, each of them counted for itself."""

    def __init__(self, daemon, threads, trace, injection):
        # -q would keep it from saying that it is attached.
        options = [option for option in trace.options([injection]) if option != "-q"]
        for name in threads:
            options += ["-p", str(thread_of(daemon, name))]
        self.process = spawn(["strace"] + options, stderr=subprocess.PIPE)
        for _ in threads:
            line = self.process.stderr.readline()
            assert b"attached" in line, line

    def detach(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Until it has detached, or its threads have ended."""
        self.process.communicate(timeout=20)
