#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""instructions.py PROGRAM COUNTS COMPILER [--update]: counts, and compares with the table.

PROGRAM is the script's; COUNTS a directory that gets one dump of callgrind's for each step;
COMPILER what the table says that it was made with.  Only the daemon's own code counts: neither
the script nor libraries, which have variants for each processor.  Of those, how often they are called.
"""

import os
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "e2e"))
from programs import run, skip

TABLE = os.path.join(HERE, "table")
MORE = 0.05  # a step may take so much more than the table says,
LESS = 0.10  # … or less; then the table is to be made anew, or it would let that be lost again
UPDATE = "cmake --build --preset dev --target instructions_table"


def count(program, verb, directory, counts):
    """Runs a part of the script under callgrind; operations by step."""
    lines = run("valgrind", "--tool=callgrind", "--quiet", "--collect-atstart=no",
                f"--callgrind-out-file={counts}/{verb}", program, verb, directory).stdout
    return {name: int(operations) for name, operations in map(str.split, lines.splitlines())}


def dump_name(path):
    """The step that a dump is of; None: of nothing."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            match = re.match(r"desc: Trigger: Client Request: (\S+)", line)
            if match:
                return match.group(1)
    return None


def is_ours(place, program):
    """Whether a function is the program's, but not the script's."""
    of_script = "/tests/" in place["fl"] and not place["fl"].endswith("/memory.c")
    return place["ob"] == program and not of_script


def sum_up(path, program):
    """Instructions in the daemon's functions, and their calls of other objects."""
    names = {"ob": {}, "fl": {}}
    place = {"ob": None, "fl": None}
    instructions, calls = 0, 0
    callee, called = None, False
    with open(path, encoding="utf-8") as file:
        for line in file:
            match = re.match(r"(c?)(ob|f[lie])=\((\d+)\)(?: (.*))?", line)
            if match:
                calling, kind, number, name = match.groups()
                # All kinds of files share their numbers.
                known = names["ob" if kind == "ob" else "fl"]
                if name is not None:
                    known[number] = name
                if calling and kind == "ob":
                    callee = known[number]
                elif not calling and kind in place:
                    # What is inlined (fi, fe) belongs to the function around it.
                    place[kind] = known[number]
            elif line.startswith("calls="):
                if callee and callee != program and is_ours(place, program):
                    calls += int(line[len("calls="):].split()[0])
                callee, called = None, True  # the next line is what the callee took
            elif re.match(r"[0-9+*-]", line):
                if not called and is_ours(place, program):
                    instructions += int(line.split()[1])
                called = False
    return instructions, calls


def count_all(program, counts):
    """Instructions and calls per operation, by step."""
    shutil.rmtree(counts, ignore_errors=True)
    os.makedirs(counts)
    operations = {}
    with tempfile.TemporaryDirectory(prefix="bitmapd-instructions-") as directory:
        operations.update(count(program, "requests", directory, counts))
    with tempfile.TemporaryDirectory(prefix="bitmapd-instructions-") as directory:
        run(program, "crash", directory)
        operations.update(count(program, "start", directory, counts))
    result = {}
    for name in os.listdir(counts):
        path = os.path.join(counts, name)
        step = dump_name(path)
        if step is None:
            os.remove(path)  # what is left at the end
            continue
        os.rename(path, os.path.join(counts, f"callgrind.{step}"))
        result[step] = [total / operations[step] for total in
                        sum_up(os.path.join(counts, f"callgrind.{step}"), program)]
    if set(result) != set(operations) or not all(map(all, result.values())):
        sys.exit(f"callgrind's dumps are of {result}, the script's steps are {operations}")
    return {step: result[step] for step in operations}


def read_table():
    """The compiler; instructions and calls per operation, by step."""
    compiler, steps = None, {}
    with open(TABLE, encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if line.startswith("# Compiler: "):
                compiler = " ".join(words[2:])
            elif words and not line.startswith("#"):
                steps[words[0]] = [float(word) for word in words[1:]]
    return compiler, steps


def write_table(compiler, counted):
    with open(TABLE, "w", encoding="utf-8") as file:
        file.write("# For each operation: instructions of the daemon's own code, and calls into\n"
                   "# libraries.  HACKING.md says how this is made anew.\n"
                   f"# Compiler: {compiler}\n")
        for step, (instructions, calls) in counted.items():
            file.write(f"{step:17} {instructions:8.0f} {calls:8.2f}\n")


def judge(step, what, expected, found, least):
    """What is wrong with a number; differences below @least are none."""
    if abs(found - expected) < least:
        return []
    difference = found / expected - 1
    if difference > MORE:
        return [f"{step}: {difference:.1%} more {what} than the table says"]
    if difference < -LESS:
        return [f"{step}: {-difference:.1%} fewer {what} than the table says; "
                "it has to be made anew"]
    return []


def compare(table, counted):
    """Prints what is counted beside the table; what is wrong with it."""
    problems = []
    print(f"{'':17} {'instructions per operation':^26} {'library calls':^26}\n"
          f"{'':17}" + f" {'table':>8} {'counted':>8} {'':8}" * 2)
    for step, numbers in counted.items():
        expected = table.get(step, [])
        if len(expected) != 2:
            problems.append(f"{step}: not in the table; it has to be made anew")
            continue
        print(f"{step:17}", *(f"{old:8.{digits}f} {new:8.{digits}f} {new / old - 1:+8.1%}"
                              for old, new, digits in zip(expected, numbers, (0, 2))))
        problems += judge(step, "instructions", expected[0], numbers[0], 1)
        problems += judge(step, "library calls", expected[1], numbers[1], 0.05)
    problems += [f"{step}: in the table, but not counted" for step in table if step not in counted]
    return problems


def main(arguments):
    update = "--update" in arguments
    arguments = [argument for argument in arguments if argument != "--update"]
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    program, counts, compiler = arguments
    if shutil.which("valgrind") is None:
        skip("not installed: valgrind")
    made_with, table = (compiler, {}) if update else read_table()
    if made_with != compiler:
        skip(f"the table is of {made_with}, this build is of {compiler}")
    counted = count_all(os.path.realpath(program), counts)
    if update:
        write_table(compiler, counted)
        print(open(TABLE, encoding="utf-8").read(), end="")
        return 0
    problems = compare(table, counted)
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems:
        print(f"Where they are spent: callgrind_annotate --threshold=100 {counts}/callgrind.STEP\n"
              f"If it has to be so:   {UPDATE}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
