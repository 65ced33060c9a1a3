# SPDX-License-Identifier: LGPL-2.1-or-later
"""protocol.md says what the code does: operations, messages field by field, and statuses."""

import re

DOCUMENT = "proto/protocol.md"

C_TYPES = {
    "uint8_t": "u8", "uint16_t": "u16", "uint32_t": "u32", "uint64_t": "u64",
    "struct wire_uuid": "uuid", "struct wire_string": "string",
    "struct wire_strings": "strings", "struct wire_ranges": "ranges",
}


def section(text, title):
    """What stands below a "## title", up to the next one."""
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return match.group(1) if match else ""


def rows(text):
    """The cells of each line of a table but its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells[1:] if not set(row[0]) <= {"-"}]


def document_messages(text):
    found = {}
    for part in re.split(r"^### ", section(text, "Messages"), flags=re.M)[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = [(row[0], row[1]) for row in rows(body)]
    return found


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def code_messages(text):
    found = {"empty": []}
    for name, body in re.findall(r"^struct message_(\w+) \{\n(.*?)^\};", without_comments(text),
                                 re.M | re.S):
        found[name.replace("_", "-")] = [
            (C_TYPES.get(kind, kind), field)
            for kind, field in re.findall(r"^\s*(.+?)\s+(\w+);", body, re.M)]
    return found


def codec_messages(text):
    """The order in which the codec takes the fields, without types."""
    found = {"empty": []}
    for name, body in re.findall(r"field (\w+)_fields\[\] = \{\n(.*?)^\};", text, re.M | re.S):
        found[name.replace("_", "-")] = re.findall(r"FIELD\(\w+, (\w+)\)", body)
    return found


def document_operations(text):
    return {row[1]: (int(row[0]), row[2]) for row in rows(section(text, "Operations"))}


def code_operations(header, codec):
    numbers = re.findall(r"\bOPERATION_(\w+) = (\d+)", header)
    requests = dict(re.findall(r"\[OPERATION_(\w+)\] = \{\"[\w-]+\", MESSAGE_(\w+)\}", codec))
    return {name: (int(number), requests.get(name, "none").lower().replace("_", "-"))
            for name, number in numbers}


def document_statuses(text):
    return {row[1]: (int(row[0]), row[3]) for row in rows(section(text, "Status"))}


def code_statuses(header, table):
    numbers = dict(re.findall(r"\bSTATUS_(\w+) = (\d+)", header))
    found = {}
    for name, word, code in re.findall(
            r"\[STATUS_(\w+)\] = \{\s*\"([\w-]+)\",\s*\"[^\"]*\",\s*(-\w+|0)\}", table):
        found[word] = (int(numbers.get(name, -1)), code.lstrip("-") if code != "0" else "")
    for name in numbers:
        found.setdefault(name.lower().replace("_", "-"), (int(numbers[name]), "none"))
    return found


def compare(what, document, code):
    problems = []
    for name in sorted(document.keys() | code.keys()):
        if document.get(name) != code.get(name):
            problems.append(f"{DOCUMENT}: {what} {name}: the document has {document.get(name)}, "
                            f"the code {code.get(name)}")
    return problems


def check(tree):
    document = tree.read(DOCUMENT)
    header = tree.read("proto/message.h")
    codec = tree.read("proto/layout.c")
    messages = code_messages(header)
    problems = compare("message", document_messages(document), messages)
    problems += compare("order of", {name: [field for _, field in fields]
                                     for name, fields in messages.items()}, codec_messages(codec))
    problems += compare("operation", document_operations(document),
                        code_operations(header, codec))
    problems += compare("status", document_statuses(document),
                        code_statuses(tree.read("proto/status.h"), tree.read("proto/status.c")))
    return problems
