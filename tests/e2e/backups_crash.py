#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same as backups.py while bitmapd and nbdkit are killed at random: copy and increments
still give the drives, byte for byte, also of a drive whose nbdkit is gone and whose writer
has not come back.

    backups_crash.py [POINTS]

Or BITMAPD_TEST_ROUNDS.  vm1's writer fails when it loses the daemon: what is recorded of it may
become a superset, and never unknown.  vm2's goes on (on-lost=continue): it has to be unknown
when it, or the daemon under it, was lost since the base, and may not be otherwise.
"""

import collections
import random
import time

import stack as e2e
from backups import Run, points_wanted

LIMBO_EVERY = 4
DEATHS = ("daemon", "vm1", "vm1", "vm2", "both", None, None, None, None)


class CrashRun(Run):
    may_break = True
    nbdkit_parameters = {"vm1": (), "vm2": ("on-lost=continue",)}

    def __init__(self, stack, seed):
        super().__init__(stack, seed)
        self.killed = collections.Counter()
        self.times = random.Random(seed)
        self.dead = []
        self.checkpoints.may_fail = True

    def sleep(self, seconds_max):
        time.sleep(self.times.uniform(0, seconds_max))

    # ---- Losses, and what they are held against ----

    def lose(self, drive):
        """What was recorded of vm2 is unknown for all whose base is from before."""
        if drive == "vm2":
            for consumer in self.consumers:
                for copy in consumer:
                    if copy.drive == drive and copy.base:
                        copy.is_unknown = True

    def wait_until_resumed(self, drive):
        """Attached is not enough; only then is a checkpoint that is made exact again."""
        def resumed():
            self.nbdkits[drive].check_running()
            checkpoint = self.checkpoint()
            validity = {
                entry["name"]: entry["validity"]
                for entry in self.stack.ctl_json("checkpoint", "list", drive)["checkpoints"]}
            self.checkpoints.let_go(checkpoint)
            return validity[checkpoint.name] == "exact"

        e2e.wait_until(resumed, "the writer is back")

    def restart_daemon(self):
        super().restart_daemon()
        self.lose("vm2")

    def kill_daemon(self):
        self.stack.daemon.kill()
        self.killed["daemon"] += 1
        self.lose("vm2")

    def bring_daemon_back(self):
        self.sleep(0.1)
        if self.chance(0.3):
            self.stack.launch_daemon("--config", self.config)
            self.sleep(0.1)
            self.kill_daemon()
        self.start_daemon()

    def kill_nbdkit(self, drive):
        self.nbdkits[drive].kill()
        self.killed[drive] += 1
        self.dead.append(drive)
        self.lose(drive)

    def bring_nbdkit_back(self, drive):
        self.start_nbdkit(drive)  # with the same token: it resumes
        self.crowds[drive].server_is_back()

    # ---- One round ----

    def die(self):
        victim = self.random.choice(DEATHS)
        if victim == "daemon":
            self.kill_daemon()
            self.bring_daemon_back()
        elif victim == "both":
            drive = self.random.choice(list(self.nbdkits))
            if self.chance(0.5):
                self.kill_daemon()
                self.sleep(0.05)
                self.kill_nbdkit(drive)
            else:
                self.kill_nbdkit(drive)
                self.sleep(0.05)
                self.kill_daemon()
            self.bring_daemon_back()
        elif victim:
            self.kill_nbdkit(victim)

    def limbo(self):
        """The daemon is killed under writers that stand still in the midst of all; the new one
        makes a checkpoint, is killed too, and the writes that had been marked before all that
        are made; then nbdkit is killed, so that nobody marks them again.  Increments since that
        checkpoint have them, because it has carried all that was recorded."""
        self.freeze()
        self.kill_daemon()
        self.start_daemon()
        checkpoint = self.checkpoint()
        self.backups(checkpoint, True)
        self.checkpoints.let_go(checkpoint)
        self.kill_daemon()
        self.thaw()
        self.sleep(0.03)
        for drive in self.nbdkits:
            self.kill_nbdkit(drive)
        self.start_daemon()
        self.revive()
        self.killed["in_limbo"] += 1

    def point(self):
        if self.points_done % LIMBO_EVERY == LIMBO_EVERY - 2:
            self.limbo()
            return
        self.die()
        # A drive whose nbdkit is dead stands still, and its writer is lost: half of the time it
        # is backed up as it is, and both base and increment have to do with that.
        if self.chance(0.5):
            self.revive()
        for drive in self.nbdkits:
            if drive not in self.dead:
                self.wait_until_resumed(drive)
        super().point()
        if self.dead:
            # What begins without the writer is unknown, or carried.
            for drive in self.dead:
                self.lose(drive)
        self.revive()

    def revive(self):
        for drive in self.dead:
            self.bring_nbdkit_back(drive)
        self.dead.clear()

    def finish(self):
        for drive in self.nbdkits:
            self.wait_until_resumed(drive)
        self.checkpoints.may_fail = False
        super().finish()

    def report(self, points, began):
        print(f"killed {dict(self.killed)}")
        super().report(points, began)


def main():
    e2e.need_tools("nbdkit", "cmp")
    seed = e2e.seed()
    with e2e.Stack() as stack:
        CrashRun(stack, seed).points(points_wanted())


if __name__ == "__main__":
    main()
