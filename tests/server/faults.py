# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real daemon dies, or its disk fails, at every single call by which it changes a file.

A life of a daemon (a start, work, a stop) is first led without faults, to count the calls of each
thread.  Then for each of these calls it is led again, and the daemon is killed there or gets an
error.  After an error it has to go on and get well again, or to refuse the start in words.  In any
case the next daemon has to know everything that was acknowledged (aftermath.py).

All kills are tried always, of the errors a few at random; all of them with the argument "all".
"""

import collections
import concurrent.futures
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

from aftermath import CONFIG, status, verify
from injection import CHANGES, EFFECTS, POLL, READS, Attached, Call, Injection, Trace, TracedDaemon
from wire import *
from workload import FILLING, FURTHER, STEPS, Workload

SEED = int(os.environ.get("BITMAPD_TEST_SEED", time.time()))
ALL = sys.argv[1:] == ["all"]
# After an error a daemon tries again a second later: until then a trial costs nothing.
WORKERS = min(5 * os.cpu_count(), 16)
LASTING_SECONDS = 2.5  # of an error: two more attempts meet it
ATTEMPTS = 3           # to hit a call that is made or not, depending on who is faster

# @recover: the daemon has to get well before it is killed.  @earlier: injections for starts before.
Trial = collections.namedtuple("Trial", "life thread injection recover earlier",
                               defaults=(None, False, ()))


class Scene:
    """A directory, what is known to be in it, and the trace of the daemon that has the fault."""

    def __init__(self, trial):
        self.trial = trial
        self.life = LIVES[trial.life]
        self.directory = tempfile.mkdtemp(prefix="bitmapd-faults-")
        self.trace = Trace(self.directory, "trace")
        self.workload = Workload()
        self.daemons = []
        self.died = self.refused = False

    def daemon(self, kind=Daemon, *args):
        self.daemons.append(kind(*args, directory=self.directory, config=CONFIG))
        return self.daemons[-1]

    def started(self, steps=()):
        """A daemon, and a client that has done @steps."""
        daemon = self.daemon()
        daemon.start()
        client = daemon.client()
        assert self.workload.run(client, steps)
        return daemon, client

    def close(self):
        for daemon in self.daemons:
            if daemon.process and daemon.process.poll() is None:
                daemon.stop(signal.SIGKILL)

    # What the directory has seen before.

    def new(self):
        pass

    def crashed(self):
        daemon, _ = self.started(STEPS)
        daemon.stop(signal.SIGKILL)
        for injection in self.trial.earlier:
            daemon = self.daemon(TracedDaemon, self.trace, [injection])
            daemon.attempt()
            daemon.stop(signal.SIGKILL)

    def crashed_unnamed(self):
        """The journal in force has its temporary names still."""
        self.crashed()
        daemon = self.daemon(TracedDaemon, self.trace, [Injection(Call("rename", 1, ""), "kill")])
        assert daemon.attempt() is None
        daemon.stop()

    def stopped(self):
        daemon, client = self.started(STEPS)
        client.must(FLUSH)
        assert daemon.stop() == 0

    # What happens to the daemon with the fault.

    def start(self):
        daemon = self.daemon(TracedDaemon, self.trace, [self.trial.injection, self.life.also])
        client = daemon.attempt()
        if client:
            self.work(daemon, client)
        else:
            self.ended(daemon, daemon.stop())
            assert self.died or "bitmapd: error: " in daemon.messages(), daemon.messages()

    def run(self):
        daemon, client = self.started()
        tracer = self.attach(daemon)
        if self.life.also:
            also = Attached(daemon, ["container"], Trace(self.directory, "trace.also"),
                            self.life.also)
        self.work(daemon, client, tracer)
        tracer.wait()
        if self.life.also:
            also.wait()

    def stop(self):
        daemon, _ = self.started(self.life.steps)
        tracer = self.attach(daemon)
        self.ended(daemon, daemon.stop())
        tracer.wait()
        assert not self.refused or "not marked clean" in daemon.messages(), daemon.messages()

    def attach(self, daemon):
        return Attached(daemon, self.trial.thread.split(" and "), self.trace, self.trial.injection)

    def ended(self, daemon, code):
        self.died = code == -signal.SIGKILL
        self.refused = code == 1
        assert code in (0, 1, -signal.SIGKILL), (code, daemon.messages())

    def work(self, daemon, client, tracer=None):
        """Until all is done or the daemon has died; afterwards it has."""
        try:
            if self.life.pipelined:
                self.workload.run(client, self.life.steps[:2])
                self.workload.pipeline(client, self.life.steps[2:])
            else:
                self.work_through(client, tracer)
        except (Closed, ConnectionError):
            self.died = True
        code = daemon.process.wait(20) if self.died else daemon.stop(signal.SIGKILL)
        assert code == -signal.SIGKILL, (code, daemon.messages())

    def work_through(self, client, tracer):
        """An error that lasts is over after a time if the daemon is to recover; or else it is what
        the daemon is killed with, in the middle of its work."""
        recover = self.trial.recover
        lasting = tracer and self.trial.injection and self.trial.injection.lasting
        if lasting and recover:
            threading.Timer(LASTING_SECONDS, tracer.detach).start()
        cut_short = lasting and not recover
        done = self.workload.run(client, self.life.steps, LASTING_SECONDS if cut_short else 20)
        assert done or cut_short, "refused for ever"
        if recover:
            self.get_well(client)

    def get_well(self, client):
        deadline = time.monotonic() + 10
        while status(client)[0] or client.call(FLUSH)[0] != OK:
            assert time.monotonic() < deadline, "degraded for ever: %s" % status(client)[0]
            time.sleep(POLL)
        self.workload.durable()


# @exact: it makes the same calls every time.  @pipelined: the client waits for no answer, so there
# are batches of many changes, and changes during write-backs; only to be killed.  @also: an
# injection for each of its trials, from the main or the container's thread.
Life = collections.namedtuple("Life", "before during steps threads exact pipelined also",
                              defaults=(True, False, None))
LIVES = {
    "start in a new directory": Life(Scene.new, Scene.start, STEPS, ["main"]),
    "start after a crash": Life(Scene.crashed, Scene.start, FURTHER, ["main"]),
    "start after a stop": Life(Scene.stopped, Scene.start, FURTHER, ["main"]),
    "start that cannot commit": Life(Scene.crashed_unnamed, Scene.start, FURTHER, ["main"],
                                     also=Injection(Call("fdatasync", 3, ""), "EIO")),
    "work": Life(Scene.new, Scene.run, STEPS, ["journal", "container"]),
    "work without the container": Life(Scene.new, Scene.run, STEPS, ["journal"],
                                       also=Injection(Call("pwrite64", 1, ""), "EIO", True)),
    "work in a pipeline": Life(Scene.new, Scene.run, STEPS, ["journal", "container"],
                               exact=False, pipelined=True),
    "full journal": Life(Scene.new, Scene.run, FILLING, ["journal", "container"], exact=False),
    "stop": Life(Scene.new, Scene.stop, STEPS, ["journal", "container", "main"]),
}


def count(life, thread):
    """The calls of a life without faults: the least of two times, since a slow one may have more."""
    return min((lead(life, thread) for _ in range(2)), key=len)


def lead(life, thread):
    scene = Scene(Trial(life, thread))
    try:
        scene.life.before(scene)
        scene.life.during(scene)
        assert not scene.died and not scene.refused, (life, thread)
        return scene.trace.calls()
    finally:
        scene.close()
        shutil.rmtree(scene.directory)


def play(trial):
    """What became of the daemon, and how many bitmaps are unknown."""
    scene = Scene(trial)
    injection = trial.injection
    try:
        scene.life.before(scene)
        scene.life.during(scene)
        hit = scene.died if injection.effect == "kill" else scene.trace.injected(injection.call)
        unread = None
        if injection.call.name in READS and trial.life.startswith("start"):
            unread = injection.call.file
        unknown = verify(scene.directory, scene.workload, unread)
    except Exception as why:
        raise AssertionError("%s: see %s\n%s" % (title(trial), scene.directory,
                                                 traceback.format_exc())) from why
    finally:
        scene.close()
    shutil.rmtree(scene.directory)
    if not hit:
        return "was missed", unknown
    return "died" if scene.died else "refused" if scene.refused else "went on", unknown


def play_until_hit(trial):
    for _ in range(ATTEMPTS):
        outcome = play(trial)
        if outcome[0] != "was missed":
            break
    return outcome


def title(trial):
    return "%s, %s: %s%s%s" % (trial.life, trial.thread, trial.injection,
                               ", to recover" if trial.recover else "",
                               "".join(", after " + str(earlier) for earlier in trial.earlier))


class Plan:
    def __init__(self, calls):
        self.calls = calls  # (life, thread): what it calls
        self.rng = random.Random(SEED)
        self.trials = []

    def some(self, of, count):
        return of if ALL else self.rng.sample(of, min(count, len(of)))

    def groups(self, life, thread, names):
        """By name; without those that have an injection of the life's own."""
        groups = collections.defaultdict(list)
        for call in self.calls[life, thread]:
            also = LIVES[life].also if thread == "main" else None
            if call.name in names and not (also and also.call.name == call.name):
                groups[call.name].append(call)
        return groups.values()

    def kills(self, life, thread):
        for group in self.groups(life, thread, EFFECTS["kill"]):
            for call in self.some(group, 6) if life == "full journal" else group:
                self.trials.append(Trial(life, thread, Injection(call, "kill")))

    def errors(self, life, thread, effect):
        for group in self.groups(life, thread, EFFECTS[effect]):
            for call in self.some(group, max(1, len(group) // 10)):
                for recover in [False] if LIVES[life].also else self.some([False, True], 1):
                    self.trials.append(Trial(life, thread, Injection(call, effect), recover))

    def lasting_errors(self, life, thread, effect):
        calls = [call for call in self.calls[life, thread.split(" and ")[0]]
                 if call.name in EFFECTS[effect] and call.name in CHANGES]
        for call in self.rng.sample(calls, min(12 if ALL else 2, len(calls))):
            for recover in False, True:
                self.trials.append(Trial(life, thread, Injection(call, effect, True), recover))

    def kills_in_a_row(self):
        life, thread = "start after a crash", "main"
        calls = [call for call in self.calls[life, thread] if call.name in EFFECTS["kill"]]
        for _ in range(120 if ALL else 12):
            last, *earlier = (Injection(call, "kill")
                              for call in self.rng.choices(calls, k=self.rng.randint(2, 4)))
            self.trials.append(Trial(life, thread, last, False, tuple(earlier)))

    def all(self):
        errors = [effect for effect in EFFECTS if effect != "kill"]
        for life, thread in self.calls:
            self.kills(life, thread)
            for effect in errors if not LIVES[life].pipelined else []:
                self.errors(life, thread, effect)
                if not LIVES[life].also:
                    self.lasting_errors(life, thread, effect)
        for effect in errors:
            self.lasting_errors("work", "journal and container", effect)
        self.kills_in_a_row()
        self.rng.shuffle(self.trials)
        return self.trials


def report(outcomes):
    kinds = collections.defaultdict(collections.Counter)
    for trial, (outcome, unknown) in outcomes:
        injection = trial.injection
        kind = kinds["%s, %s" % (trial.life, trial.thread)]
        kind["%s%s%s %s" % (injection.effect, " and on" if injection.lasting else "",
                            " in a row" if trial.earlier else "", outcome)] += 1
        kind["unknown bitmaps"] += unknown
    for name in sorted(kinds):
        print("%s:" % name)
        for what in sorted(kinds[name]):
            print("    %4d %s" % (kinds[name][what], what))
    missed = [title(trial) for trial, (outcome, _) in outcomes
              if outcome == "was missed" and LIVES[trial.life].exact and not trial.earlier]
    assert not missed, "calls that were never made: " + "; ".join(missed)


def main():
    if not shutil.which("strace"):
        assert os.environ.get("CI") != "true", "strace is missing"
        print("strace is missing: skipped")
        return 77
    print("BITMAPD_TEST_SEED=%d" % SEED, flush=True)
    started = time.monotonic()
    outcomes, failures = [], []
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        pairs = [(life, thread) for life in LIVES for thread in LIVES[life].threads]
        calls = dict(zip(pairs, pool.map(count, *zip(*pairs))))
        assert all(calls.values()), "threads that call nothing"
        trials = Plan(calls).all()
        for trial, future in [(trial, pool.submit(play_until_hit, trial)) for trial in trials]:
            try:
                outcomes.append((trial, future.result()))
            except AssertionError as why:
                failures.append(why)
                print("FAILED: %s" % why, flush=True)
    report(outcomes)
    print("%d trials, %d failed, %d s" % (len(trials), len(failures),
                                          time.monotonic() - started))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
