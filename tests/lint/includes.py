# SPDX-License-Identifier: LGPL-2.1-or-later
"""Folders are layers: an include points down, is written from the root, and every .c is compiled."""

import json
import os
import re

# Each folder with the folders right below it; what is below those may be included too.
LAYERS = {
    "proto/base": [],
    "proto": ["proto/base"],
    "config": ["proto/base"],
    "client/lib": ["proto"],
    "client/ctl": ["client/lib"],
    "client/nbdkit": ["client/lib"],
    "daemon/base": ["proto/base"],
    "daemon/bitmap": ["daemon/base"],
    "daemon/identity": ["daemon/base"],
    "daemon/container": ["daemon/base"],
    "daemon/journal": ["daemon/base"],
    "daemon/catalog": ["daemon/base"],
    "daemon/drive": ["daemon/bitmap", "daemon/identity", "daemon/container", "daemon/journal",
                     "daemon/catalog"],
    "daemon/server": ["daemon/drive", "proto"],
    "daemon/app": ["daemon/server", "config"],
}

# A path and the folders that it alone may include from beside its layer's.
EXCEPTIONS = {
    # The offline container verbs work on the file itself.
    "client/ctl/check.c": ["daemon/container"],
    "client/ctl/compact.c": ["daemon/container"],
    "client/ctl/container.c": ["daemon/container"],
    "client/ctl/image.h": ["daemon/container"],
    "client/ctl/prepare.c": ["daemon/container"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]*)"')


def below(folder):
    """The folder and all that it may include from."""
    found = {folder}
    for lower in LAYERS.get(folder, []):
        found |= below(lower)
    return found


def allowed(path):
    folder = os.path.dirname(path)
    found = below(folder)
    for other in EXCEPTIONS.get(path, []):
        found |= below(other)
    return found


def check_include(tree, path, number, target):
    where = f"{path}:{number}"
    if "/" not in target or target.startswith("/") or ".." in target.split("/"):
        return [f'{where}: "{target}" is not written from the project\'s root']
    if target not in tree.paths:
        return [f'{where}: "{target}" is not a file of the project']
    folder, into = os.path.dirname(path), os.path.dirname(target)
    if folder.startswith("tests/"):
        # Tests may look into every layer, but not into each other.
        if into.startswith("tests/") and into not in (folder, "tests/common"):
            return [f'{where}: a test of {folder} includes "{target}"']
        return []
    if folder not in LAYERS:
        return [f"{where}: {folder} is not in the table of layers"]
    if into not in allowed(path):
        return [f'{where}: {folder} must not include "{target}"']
    return []


def compiled_sources(tree):
    """The project's files that some target compiles, as CMake itself says."""
    with open(os.path.join(tree.build, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    root = os.path.realpath(tree.root)
    files = (os.path.join(command["directory"], command["file"]) for command in commands)
    return {os.path.relpath(os.path.realpath(file), root) for file in files}


def check(tree):
    problems = []
    compiled = compiled_sources(tree)
    for path in tree.with_suffix(".c", ".h"):
        for number, line in enumerate(tree.read(path).splitlines(), 1):
            match = INCLUDE.match(line)
            if match:
                problems += check_include(tree, path, number, match.group(1))
        if path.endswith(".c") and path not in compiled:
            problems.append(f"{path}: no target compiles it")
    return problems
