# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all benchmarks share: a scratch directory with servers in it, and rows.

A row compares bitmapd with a peer on the same work.  The two are measured in
turn, each repetition giving one ratio; medians and extremes are of those
repetitions.  Only ratios mean something: the machine is shared, and slower in
one minute than in the next.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))

from programs import Process, accepts, wait_until  # noqa: E402

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Bench(contextlib.ExitStack):
    """One run.  @build: a release build; @quick: every row, but briefly."""

    def __init__(self, build, quick, only=()):
        super().__init__()
        self.build = os.path.abspath(build)
        self.quick = quick
        self.only = only
        self.repetitions = 3 if quick else 5
        self.cell_ms = 60 if quick else 400
        self.rows = []
        self.notes = []
        self.count = 0

    def __enter__(self):
        super().__enter__()
        self.directory = tempfile.mkdtemp(prefix="bitmapd-bench-", dir=os.environ.get("BENCH_DIR"))
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.memory = tempfile.mkdtemp(prefix="bitmapd-bench-", dir="/dev/shm")
        self.callback(shutil.rmtree, self.memory, ignore_errors=True)
        return self

    def path(self, name):
        return os.path.join(self.directory, name)

    def memory_path(self, name):
        """Of a daemon's memory journal."""
        return os.path.join(self.memory, name)

    def tool(self, name):
        return os.path.join(self.build, {
            "bitmapd": "daemon/app/bitmapd", "bitmapctl": "client/ctl/bitmapctl",
            "load": "tests/bench/bench_load", "reference": "tests/bench/bench_reference",
            "probe": "tests/bench/bench_probe"}[name])

    def wants(self, prefix):
        """Whether any row that begins with @prefix is wanted."""
        return not self.only or any(
            prefix.startswith(wanted) or wanted.startswith(prefix) for wanted in self.only)

    # ---- Rows ----

    def row(self, name, unit, ours, peer=None, peer_name=None, aim=None, smaller=False):
        """Measures @ours() and @peer() in turn; @smaller: is better."""
        if not self.wants(name):
            return None
        mine, theirs = [], []
        for i in range(self.repetitions):
            pair = [(ours, mine)] + ([(peer, theirs)] if peer else [])
            for function, values in pair if i % 2 == 0 else reversed(pair):
                values.append(function())
        return self.add(name, unit, mine, theirs, peer_name, aim, smaller)

    def add(self, name, unit, mine, theirs=(), peer_name=None, aim=None, smaller=False):
        """A row of what is measured already; the values of a repetition have one index."""
        if not self.wants(name):
            return None
        row = {"id": name, "unit": unit, "bitmapd": spread(mine)}
        if theirs:
            ratios = [(t / m if smaller else m / t) if m and t else 0.0
                      for m, t in zip(mine, theirs)]
            row |= {"peer": peer_name, "peer_value": spread(theirs), "ratio": spread(ratios)}
        if aim is not None:
            row["aim"] = aim
        self.rows.append(row)
        print(table_line(row), flush=True)
        return row

    def title(self, text):
        print(f"\n{text}\n{HEADER}", flush=True)

    def note(self, text):
        """A line for people, which is no row."""
        self.notes.append(text)
        print(text, flush=True)

    # ---- Programs ----

    def start(self, name, command, ready, env=None):
        self.count += 1
        process = Process(name, self.path(f"{name}-{self.count}.log"), command, env)
        self.callback(process.end)

        def is_ready():
            process.check_running()
            return ready()

        wait_until(is_ready, f"{name} is ready")
        return process

    def daemon(self, name="bitmapd", *options, journal="", config=""):
        """@journal: lines for that section; @config: more sections."""
        return Daemon(self, name, options, journal, config)

    def load(self, protocol, socket, clients=1, depth=1, ranges=1, first=0, ms=None, **more):
        command = [self.tool("load"), "--protocol", protocol, "--socket", socket,
                   "--clients", str(clients), "--depth", str(depth), "--ranges", str(ranges),
                   "--first", str(first)]
        if "marks" not in more:
            command += ["--ms", str(ms or self.cell_ms)]
        for key, value in more.items():
            command += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return run_json(command)

    def probe(self, verb, *arguments, socket=None):
        """What the verb of bench_probe prints; @socket: of a daemon, if it needs one."""
        return run_json([self.tool("probe"), verb, *map(str, arguments)],
                        env=os.environ | ({"BITMAPD_SOCKET": socket} if socket else {}))


def run_json(command, env=None):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=env, timeout=300, check=False)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout)


class Daemon:
    """A bitmapd of its own, in its own directory."""

    def __init__(self, bench, name, options, journal, config):
        self.bench = bench
        self.name = name
        self.directory = bench.path(name)
        os.makedirs(self.directory, exist_ok=True)
        self.socket = os.path.join(self.directory, "bitmapd.sock")
        # As installed: the state on a disk, what belongs to a run in a tmpfs.
        path = os.path.join(self.directory, "bitmapd.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"socket: {{path: {self.socket}}}\n"
                       f"container: {{path: {self.directory}/bitmaps.qcow2}}\n"
                       f"catalog: {{path: {self.directory}/catalog.sqlite3}}\n"
                       f"journal:\n  path: {self.directory}/journal\n"
                       f"  memory_path: {bench.memory_path(name)}\n{journal}{config}")
        self.options = ["--config", path, *options]
        self.start()

    def start(self):
        self.process = self.bench.start(
            self.name, self.command(), lambda: self.ctl("status", check=False).returncode == 0)

    def command(self):
        return [self.bench.tool("bitmapd"), *self.options]

    def probe(self, verb, *arguments):
        return self.bench.probe(verb, *arguments, socket=self.socket)

    def timed_start(self):
        """Of a stopped one: milliseconds until it is ready, then until it has ended."""
        return self.bench.probe("start", self.bench.path("notify.sock"), *self.command())

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()

    def ctl(self, *arguments, check=True, **options):
        return subprocess.run(
            [self.bench.tool("bitmapctl"), "-s", self.socket, *arguments], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=600, check=check, **options)

    def ctl_json(self, *arguments):
        return json.loads(self.ctl("-o", "json", *arguments).stdout)

    def add_drive(self, name, size=16 * TIB, bitmap="b", durability="power-loss",
                  granularity="64K"):
        """Its id.  No path: what stands under one is not what is measured."""
        self.ctl("drive", "add", name, "--size", str(size), "--durability", durability,
                 "--granularity", granularity)
        if bitmap:
            self.ctl("bitmap", "create", f"{name}/{bitmap}")
        return self.ctl_json("drive", "show", name)["id"]

    def cpu_seconds(self):
        with open(f"/proc/{self.process.popen.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written_bytes(self):
        """By write(2) and its like, since its start."""
        with open(f"/proc/{self.process.popen.pid}/io", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))

    def rss_bytes(self):
        return rss_bytes(self.process.popen.pid)


def rss_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIB
    raise AssertionError(f"process {pid} has no memory")


def timed(function, *arguments):
    begin = time.monotonic()
    function(*arguments)
    return time.monotonic() - begin


# ---- The table for people ----

def human(value):
    if value == 0:
        return "0"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {suffix}"
    return f"{value:.3g}"


HEADER = (f"{'row':<42}{'unit':>13}{'bitmapd':>10}{'(min–max)':>20}{'peer':>10}  "
          f"{'ratio':>7}{'(min–max)':>16}{'aim':>7}")


def table_line(row):
    def extremes(values, text):
        return f"({text(values['min'])}–{text(values['max'])})"

    ours = row["bitmapd"]
    line = (f"{row['id']:<42}{row['unit']:>13}{human(ours['median']):>10}"
            f"{extremes(ours, human):>20}")
    if "ratio" in row:
        ratio = row["ratio"]
        line += (f"{human(row['peer_value']['median']):>10}  {ratio['median']:>7.2f}"
                 f"{extremes(ratio, '{:.2f}'.format):>16}")
        if "aim" in row:
            line += f"{row['aim']:>7.4g}{'' if ratio['median'] >= row['aim'] else '  MISSED'}"
        line += f"  {row['peer']}"
    return line
