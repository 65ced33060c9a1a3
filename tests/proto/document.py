# SPDX-License-Identifier: LGPL-2.1-or-later
"""protocol.md is normative, so it must not fall behind the headers.

Compares its tables with message.h, layout.c and status.c: every operation with its number and its
request, every message with its fields' types and names in order, every status with its number,
name and errno; and finds what the document has and the headers do not.
"""
import pathlib
import re
import sys

WIRE_TYPES = {
    "uint8_t": "u8",
    "uint16_t": "u16",
    "uint32_t": "u32",
    "uint64_t": "u64",
    "struct wire_uuid": "uuid",
    "struct wire_string": "string",
    "struct wire_strings": "strings",
    "struct wire_ranges": "ranges",
    "struct wire_blob": "blob",
}


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def dashes(name):
    return name.lower().replace("_", "-")


def table_rows(text):
    """The cells of every row of the tables in text, heads and rulers left out."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def section(document, title):
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", document, flags=re.S | re.M)
    if not found:
        sys.exit(f"protocol.md: no section '{title}'")
    return found.group(1)


def header_operations(header):
    return {name: int(number) for name, number in re.findall(r"\bOPERATION_(\w+) = (\d+)", header)}


def header_requests(layout):
    return {
        operation: (name, dashes(message))
        for operation, name, message in re.findall(
            r'\[OPERATION_(\w+)\] = \{"([\w-]+)", MESSAGE_(\w+)\}', layout)
    }


def header_messages(header, types):
    messages = {"empty": []}
    for name, body in re.findall(r"^struct message_(\w+) \{(.*?)^\};", header, flags=re.S | re.M):
        fields = re.findall(r"(struct \w+|uint\d+_t) (\w+);", body)
        messages[dashes(name)] = [(WIRE_TYPES[kind], field) for kind, field in fields]
    assert {dashes(name) for name in types} == set(messages), "enum and structures differ"
    return messages


def document_messages(document):
    messages = {}
    for part in re.split(r"^### ", section(document, "Messages"), flags=re.M)[1:]:
        name, _, body = part.partition("\n")
        messages[name.strip()] = [(row[0], row[1]) for row in table_rows(body)[1:]]
    return messages


def compare(what, expected, found, problems):
    for key in sorted(expected.keys() | found.keys(), key=str):
        if expected.get(key) != found.get(key):
            problems.append(f"{what} {key}: the sources have {expected.get(key)}, "
                            f"protocol.md has {found.get(key)}")


def main():
    folder = pathlib.Path(sys.argv[1])
    document = (folder / "protocol.md").read_text()
    message_h = without_comments((folder / "message.h").read_text())
    layout_c = (folder / "layout.c").read_text()
    status_h = without_comments((folder / "status.h").read_text())
    status_c = (folder / "status.c").read_text()
    problems = []

    operations = header_operations(message_h)
    requests = header_requests(layout_c)
    rows = [row for row in table_rows(section(document, "Operations")) if row[0].isdigit()]
    compare("operation", {name: (number, requests[name][1]) for name, number in operations.items()},
            {row[1]: (int(row[0]), row[2]) for row in rows}, problems)
    for name in operations:
        if requests[name][0] != dashes(name):
            problems.append(f"operation_name() of {name} is {requests[name][0]}")

    types = re.findall(r"\bMESSAGE_(\w+)", message_h.split("enum message_type {")[1].split("}")[0])
    types.remove("TYPES")
    messages = header_messages(message_h, types)
    compare("message", messages, document_messages(document), problems)
    for row in rows:
        for message in re.findall(r"[\w-]+", row[2] + " " + row[3]):
            if message not in messages:
                problems.append(f"operation {row[1]}: no message is called {message}")

    numbers = {dashes(n): int(v) for n, v in re.findall(r"\bSTATUS_(\w+) = (\d+)", status_h)}
    texts = re.findall(r'\[STATUS_(\w+)\] = \{"([\w-]+)",\s*"[^"]*",\s*(?:-(E\w+)|0)\}', status_c)
    table = {name: (numbers[dashes(key)], name, errno) for key, name, errno in texts}
    if set(table) != set(numbers):
        problems.append(f"status names differ: {sorted(set(table) ^ set(numbers))}")
    compare("status", table,
            {row[1]: (int(row[0]), row[1], row[3]) for row in table_rows(section(document, "Status"))
             if row[0].isdigit()}, problems)
    for row in rows:
        for status in re.findall(r"[\w-]+", row[4]):
            if status not in numbers:
                problems.append(f"operation {row[1]}: no status is called {status}")

    # That this looked at anything at all.
    assert len(operations) >= 34 and len(messages) >= 35 and len(table) >= 17
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
