# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes each step away that the promise hangs on, and requires that a test fails.

    mutate.py list      only looks whether the table is true: every text stands once in its file,
                        and HACKING.md has every row
    mutate.py [WORD…]   runs those whose names have one of the words, or all
    mutate.py table     prints the table for HACKING.md, after a run of all

Works on a copy of the tree in a scratch directory.  MUTATE_BUILD names one that is kept.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time

from mutations import MUTATIONS

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
# The quickest first; the first that fails is the one that catches the mutant.
TESTS = ["test_sim_crash", "test_drive_rules", "test_drive_writers", "test_drive_crash",
         "test_journal_write", "test_journal_faults", "test_journal_crash",
         "test_container_crash", "test_container_faults", "test_drive_random"]
SEEDS = ["1", "2"]


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def check_table():
    hacking = read(ROOT, "HACKING.md")
    for name, path, old, _ in MUTATIONS:
        count = read(ROOT, path).count(old)
        assert count == 1, f"{name}: its text stands {count} times in {path}"
        assert f"| {name} |" in hacking, f"HACKING.md has no row: {name}"
    rows = [line for line in hacking.splitlines() if line.startswith("| ") and "test_" in line]
    assert len(rows) == len(MUTATIONS), f"{len(rows)} rows, {len(MUTATIONS)} mutations"
    print(f"{len(MUTATIONS)} mutations, all in place")


def copy_tree(target):
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True,
                           capture_output=True).stdout.decode().split("\0")
    for name in filter(None, files):
        os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
        shutil.copy2(os.path.join(ROOT, name), os.path.join(target, name))


def run(command, directory, **options):
    return subprocess.run(command, cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **options)


def build(directory):
    result = run(["cmake", "--build", "build-release", "-j", str(os.cpu_count()), "--target",
                  *TESTS], directory)
    return result.returncode == 0, result.stdout.decode(errors="replace")


def find_program(directory, test):
    result = run(["find", "build-release", "-name", test, "-type", "f", "-perm", "-100"], directory)
    return os.path.join(directory, result.stdout.decode().split()[0])


def caught_by(directory):
    for test in TESTS:
        for seed in SEEDS:
            try:
                result = run([find_program(directory, test)], directory, timeout=240,
                             env=dict(os.environ, BITMAPD_TEST_SEED=seed))
                if result.returncode != 0:
                    return test
            except subprocess.TimeoutExpired:
                return test
    return None


def try_one(directory, mutation):
    name, path, old, new = mutation
    original = read(directory, path)
    with open(os.path.join(directory, path), "w", encoding="utf-8") as file:
        file.write(original.replace(old, new))
    try:
        built, words = build(directory)
        assert built, f"{name}: does not build\n{words[-2000:]}"
        return caught_by(directory)
    finally:
        with open(os.path.join(directory, path), "w", encoding="utf-8") as file:
            file.write(original)


def main():
    if sys.argv[1:] == ["list"]:
        check_table()
        return 0
    words = sys.argv[1:]
    table = words == ["table"]
    chosen = [m for m in MUTATIONS
              if table or not words or any(word in m[0] for word in words)]
    assert chosen, "no mutation has such a name"
    directory = os.environ.get("MUTATE_BUILD") or tempfile.mkdtemp(prefix="bitmapd-mutate-")
    survivors = []
    try:
        copy_tree(directory)
        configured = run(["cmake", "--preset", "release", "-DBITMAPD_WERROR=OFF"], directory)
        assert configured.returncode == 0, configured.stdout.decode(errors="replace")
        built, words = build(directory)
        assert built, words
        if not os.environ.get("MUTATE_TRUST"):
            assert caught_by(directory) is None, "the tests fail without any mutation"
        for mutation in chosen:
            started = time.monotonic()
            test = try_one(directory, mutation)
            if test is None:
                survivors.append(mutation[0])
            print(f"| {mutation[0]} | {test or 'NOBODY'} |" if table else
                  f"{test or 'NOBODY'} ({time.monotonic() - started:.0f} s): {mutation[0]}",
                  flush=True)
    finally:
        if "MUTATE_BUILD" not in os.environ:
            shutil.rmtree(directory)
    print(f"{len(chosen)} mutations, {len(survivors)} survived", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
