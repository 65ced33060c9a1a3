# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what: every operation with every right, what refusals reveal, restricted connections."""

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time

from wire import *

MIB = 1 << 20
RIGHTS = {"read": READ, "track": TRACK, "operate": OPERATE, "admin": ADMIN}
INCLUDED = {0: 0, READ: READ, TRACK: TRACK, OPERATE: OPERATE | READ, ADMIN: 15}
ANY = 15

# Users of no entry anywhere, one for each right on vm/…, and some others.
USERS = {"read": 70001, "track": 70002, "operate": 70003, "admin": 70004}
READER, ADMINISTRATOR, NOBODY = 70010, 70011, 70012
GROUP, NO_GROUP = 70020, 70021

RULES = "access:\n" + "".join(
    '  - {user: %d, rights: [%s], drives: ["vm/*"]}\n' % (uid, right) for right, uid in USERS.items()
) + """
  - {user: %d, rights: [read]}
  - {user: %d, rights: [admin]}
  - {group: %d, rights: [track], drives: ["vm/a", "x?/*"]}
""" % (READER, ADMINISTRATOR, GROUP)
SOCKET = "socket: {mode: 0666}\n"


def connect_as(path, uid, gid=NO_GROUP, groups=()):
    """A socket that is connected under other credentials, which stay with it."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(OSError):
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(path)
            socket.send_fds(there, [b"x"], [one.fileno()])
            status = 0
        os._exit(status)
    there.close()
    _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
    assert os.waitpid(child, 0)[1] == 0
    here.close()
    return socket.socket(fileno=descriptors[0])


def client_as(daemon, uid, greet=True, **kwargs):
    return Client(None, greet=greet, connected=connect_as(daemon.socket, uid, **kwargs))


@contextlib.contextmanager
def daemon_with(config, **kwargs):
    daemon = Daemon(SOCKET + config, **kwargs)
    os.chmod(daemon.directory, 0o755)
    with daemon:
        yield daemon


def write_config(daemon, config):
    with open(os.path.join(daemon.directory, "bitmapd.yaml"), "w") as file:
        file.write(SOCKET + config)


def make_drive(root, name):
    number = drive_id(root.must(DRIVE_ADD, drive_add(name, MIB)))
    for bitmap in ("b", "c"):
        root.must(BITMAP_CREATE, bitmap_create(name + "/" + bitmap, 4096))
    root.must(CHECKPOINT_CREATE, checkpoint_create("k", [name]))
    return number


# What each operation needs, and what it asks of a drive of that name and id.
DAEMON = "daemon"
TABLE = {
    "HELLO": (ANY, lambda d, i: hello()),
    "RESTRICT": (ANY, lambda d, i: restrict(d, READ)),
    "DRIVE_ADD": (ADMIN, lambda d, i: drive_add(d + "-new", MIB)),
    "DRIVE_LIST": (ANY, lambda d, i: b""),
    "DRIVE_SHOW": (ANY, lambda d, i: text(d)),
    "DRIVE_SET": (ADMIN, lambda d, i: NONE + text(d) + struct.pack("<BI", 0, 4096)),
    "DRIVE_RENAME": (ADMIN, lambda d, i: drive_change(d, d + "-renamed")),
    "DRIVE_RESIZE": (ADMIN, lambda d, i: NONE + text(d) + struct.pack("<Q", 2 * MIB)),
    "DRIVE_REMOVE": (ADMIN, lambda d, i: drive_change(d, flags=1)),
    "DRIVE_FENCE": (ADMIN, lambda d, i: drive_change(d)),
    "DRIVE_ADOPT": (ADMIN, lambda d, i: drive_change(d)),
    "BITMAP_CREATE": (OPERATE, lambda d, i: bitmap_create(d + "/new", 4096)),
    "BITMAP_LIST": (READ, lambda d, i: text(d)),
    "BITMAP_SHOW": (READ, lambda d, i: text(d + "/b")),
    "BITMAP_DELETE": (OPERATE, lambda d, i: change(d + "/b")),
    "BITMAP_ENABLE": (OPERATE, lambda d, i: change(d + "/b")),
    "BITMAP_DISABLE": (OPERATE, lambda d, i: change(d + "/b")),
    "BITMAP_RENAME": (OPERATE, lambda d, i: change(d + "/b", "z")),
    "BITMAP_SET": (OPERATE, lambda d, i: bitmap_range(d + "/b", 0, 1)),
    "BITMAP_CLEAR": (OPERATE, lambda d, i: bitmap_range(d + "/b", 0, 0, flags=4)),
    "BITMAP_MERGE": (OPERATE, lambda d, i: NONE + text(d + "/b") + struct.pack("<H", 1) +
                     text(d + "/c")),
    "MAP": (READ, lambda d, i: text(d + "/b") + struct.pack("<Q", 0)),
    "MARK": (TRACK, lambda d, i: mark(i, [(0, 1)])),
    "SETTLE": (TRACK, lambda d, i: settle(i, [(1, 1)])),
    "ATTACH": (TRACK, lambda d, i: attach(d, "token")),
    "RESUME": (TRACK, lambda d, i: struct.pack("<Q", i)),
    "DETACH": (TRACK, lambda d, i: struct.pack("<Q", i)),
    "FLUSH": (DAEMON, lambda d, i: b""),
    "STATUS": (ANY, lambda d, i: b""),
    "RELOAD": (DAEMON, lambda d, i: b""),
    "TRANSACTION": (OPERATE, lambda d, i: transaction([(BITMAP_SET, bitmap_range(d + "/b", 0, 1))])),
    "CHECKPOINT_CREATE": (OPERATE, lambda d, i: checkpoint_create("n", [d])),
    "CHECKPOINT_LIST": (READ, lambda d, i: text(d)),
    "CHECKPOINT_DELETE": (OPERATE, lambda d, i: checkpoint_delete(d, "k")),
    "CHECKPOINT_MAP": (READ, lambda d, i: checkpoint_map(d, "k")),
}
# These are answered otherwise than by "ok" where they are permitted.
OTHERWISE = {"HELLO": INVALID, "DRIVE_ADOPT": INVALID, "RESUME": NOT_FOUND, "DETACH": NOT_FOUND}
# … and these do not name a drive.
NAMELESS = {"HELLO", "DRIVE_LIST", "STATUS", "FLUSH", "RELOAD"}


def documented():
    """Operations of protocol.md."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../proto/protocol.md")
    with open(path) as file:
        return {name: int(number) for number, name in
                re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", file.read(), re.M)}


def numbers():
    found = documented()
    assert set(found) == set(TABLE), set(found) ^ set(TABLE)
    return found


def every_operation_with_every_right():
    operations = numbers()
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        users = dict(USERS, everywhere=ADMINISTRATOR)
        for name, number in operations.items():
            need, payload = TABLE[name]
            for right, uid in users.items():
                held = INCLUDED[RIGHTS.get(right, ADMIN)]
                permitted = right == "everywhere" if need == DAEMON else held & need != 0
                drive = "vm/%s-%s" % (name, right)
                body = payload(drive, make_drive(root, drive))
                if name == "RESTRICT":
                    body = restrict(drive, RIGHTS.get(right, ADMIN))
                status = client_as(daemon, uid).answer(number, body)[-1][1]
                expected = OTHERWISE.get(name, OK) if permitted else PERMISSION
                assert status == expected, (name, right, status, expected)
            # root and the daemon's own user are not asked.
            drive = "other/" + name
            status = daemon.client().answer(number, payload(drive, make_drive(root, drive)))[-1][1]
            assert status == OTHERWISE.get(name, OK), (name, status)
        # What was refused has changed nothing.
        found = {d["name"] for d in root.items(DRIVE_LIST, b"", drive_info)}
        assert {"vm/DRIVE_REMOVE-" + r for r in ("read", "track", "operate")} <= found
        assert "vm/DRIVE_REMOVE-admin" not in found and "vm/DRIVE_ADD-operate-new" not in found
        assert root.map("vm/BITMAP_SET-read/b") == [] != root.map("vm/BITMAP_SET-operate/b")
        assert root.map("vm/MARK-operate/b") == [] != root.map("vm/MARK-track/b")


def nothing_is_revealed():
    """A drive that may not be seen is answered as one that is not there, byte by byte."""
    operations = numbers()
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        hidden = make_drive(root, "xx/hidden")
        for right, uid in USERS.items():
            for name, number in operations.items():
                if name in NAMELESS:
                    continue
                client = client_as(daemon, uid)
                payload = TABLE[name][1]
                missing = 10 ** len(str(hidden)) - 1
                there = client.answer(number, payload("xx/hidden", hidden))
                gone = client.answer(number, payload("xx/absent", missing))
                plain = [(f, s, b.replace(b"xx/hidden", b"xx/absent").replace(
                    b"id %d" % hidden, b"id %d" % missing)) for f, s, b in there]
                assert plain == gone, (right, name, there, gone)
                assert there[-1][1] in (PERMISSION, NOT_FOUND, OK), (right, name, there)
                if name not in ("SETTLE", "RESUME", "DETACH", "MARK"):
                    assert there[-1][1] == PERMISSION, (right, name)
            status = client_as(daemon, uid).must(STATUS)
            fields = Fields(status).take("server:t container:u instance:u path:t uptime:Q "
                                         "sequence:Q applied:Q drives:I bitmaps:I unknown:I "
                                         "connections:I")
            assert (fields["drives"], fields["bitmaps"], fields["path"], fields["sequence"],
                    fields["connections"]) == (0, 0, "", 0, 0)
            assert client_as(daemon, uid).answer(DRIVE_LIST) == [(REPLY, OK, bytes(8))]
            for listing in (BITMAP_LIST, CHECKPOINT_LIST):
                status = client_as(daemon, uid).answer(listing, text(""))[-1][1]
                assert status == (PERMISSION if right == "track" else OK)
        # Who may administer some drives cannot ask for others' names by adding or renaming.
        make_drive(root, "vm/mine")
        admin = client_as(daemon, USERS["admin"])
        for other in ("xx/hidden", "xx/absent"):
            assert admin.call(DRIVE_ADD, drive_add(other, MIB))[0] == PERMISSION
            assert admin.call(DRIVE_RENAME, drive_change("vm/mine", other))[0] == PERMISSION
        # Names that no drive can have are told as such, to all.
        assert admin.call(DRIVE_SHOW, text("-x"))[0] == NOT_FOUND
        assert admin.call(BITMAP_SHOW, text("nothing"))[0] in (INVALID, NOT_FOUND)


def several_drives_in_one_request():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        make_drive(root, "vm/a")
        make_drive(root, "vm/b")
        make_drive(root, "xx/hidden")
        client = client_as(daemon, USERS["operate"])
        status, _ = client.call(CHECKPOINT_CREATE, checkpoint_create("n", ["vm/a", "xx/hidden"]))
        assert status == PERMISSION
        client.must(CHECKPOINT_CREATE, checkpoint_create("n", ["vm/a", "vm/b"]))
        status, _ = client.call(BITMAP_MERGE, NONE + text("vm/a/b") + struct.pack("<H", 2) +
                                text("vm/a/c") + text("xx/hidden/b"))
        assert status == PERMISSION
        set_a, set_hidden = ((BITMAP_SET, bitmap_range(d + "/b", 0, 1)) for d in ("vm/a", "xx/hidden"))
        status, body = client.call(TRANSACTION, transaction([set_a, set_hidden]))
        assert status == PERMISSION and b"operation 1: " in body, body
        assert root.map("vm/a/b") == []
        status, body = client.call(TRANSACTION, transaction(
            [set_a, (CHECKPOINT_CREATE, checkpoint_create("m", ["vm/a", "xx/hidden"]))]))
        assert status == PERMISSION and b"operation 1: " in body, body
        assert root.map("vm/a/b") == []
        client.must(TRANSACTION, transaction([set_a]))
        assert root.map("vm/a/b") == [(0, 4096)]
        assert {d["name"] for d in client.items(DRIVE_LIST, b"", drive_info)} == {"vm/a", "vm/b"}
        assert {b["bitmap"] for b in client.items(BITMAP_LIST, text(""), bitmap_info)} == {
            "vm/a/b", "vm/a/c", "vm/b/b", "vm/b/c"}
        assert {c["drive"] for c in client.checkpoints()} == {"vm/a", "vm/b"}


def what_is_refused_is_not_looked_at():
    """A path is compared, with a verdict, only for who may ask."""
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        path = os.path.join(daemon.directory, "drive")
        with open(path, "wb") as file:
            file.truncate(MIB)
        root.must(DRIVE_ADD, drive_add("xx/hidden", 0, path))
        root.must(BITMAP_CREATE, bitmap_create("xx/hidden/b", 4096))
        root.must(ATTACH, attach("xx/hidden", "w"))
        root.must(DETACH, struct.pack("<Q", drive_id(root.must(DRIVE_SHOW, text("xx/hidden")))))
        with open(path, "r+b") as file:
            file.write(b"past the daemon")

        def sequence():
            return Fields(root.must(STATUS)).take("server:t container:u instance:u path:t uptime:Q "
                                                  "sequence:Q")["sequence"]

        before = sequence()
        client = client_as(daemon, USERS["operate"])
        create = (BITMAP_CREATE, bitmap_create("xx/hidden/x", 4096))
        for operation, payload in (create, (TRANSACTION, transaction([create])),
                                   (MAP, text("xx/hidden/b") + bytes(8))):
            assert client.call(operation, payload)[0] == PERMISSION
        assert sequence() == before
        root.map("xx/hidden/b")
        assert sequence() > before


def repeats_are_for_those_who_may():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        make_drive(root, "vm/a")
        make_drive(root, "xx/hidden")
        request = os.urandom(16)
        create = bitmap_create("xx/hidden/secret", 4096, request=request)
        root.must(BITMAP_CREATE, create)
        client = client_as(daemon, USERS["operate"])
        status, body = client.call(BITMAP_CREATE, bitmap_create("vm/a/x", 4096, request=request))
        assert status == PERMISSION and b"hidden" not in body
        assert client.call(BITMAP_CREATE, create)[0] == PERMISSION
        assert root.call(BITMAP_CREATE, create)[0] == OK


def groups():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        for name in ("vm/a", "vm/ab", "xy/z/deep", "x/z"):
            make_drive(root, name)
        for how in ({"gid": GROUP}, {"groups": (1, GROUP)}):
            client = client_as(daemon, NOBODY, **how)
            found = {d["name"] for d in client.items(DRIVE_LIST, b"", drive_info)}
            assert found == {"vm/a", "xy/z/deep"}, found
            client.must(ATTACH, attach("vm/a", "w"))
            client.close()
            time.sleep(0.05)
            root.must(DRIVE_FENCE, drive_change("vm/a"))
        # Rights add up.
        both = client_as(daemon, USERS["read"], groups=(GROUP,))
        assert both.call(MAP, text("x/z/b") + bytes(8))[0] == PERMISSION
        both.must(BITMAP_SHOW, text("vm/a/b"))
        both.must(ATTACH, attach("vm/a", "v"))
        assert both.call(ATTACH, attach("vm/ab", "v"))[0] == PERMISSION


def nobody():
    for rules in ("", RULES, "access: []\n"):
        with daemon_with(rules) as daemon:
            client = client_as(daemon, NOBODY, greet=False)
            status, body = client.call(HELLO, hello())
            assert status == PERMISSION and b"%d" % NOBODY in body
            try:
                client.reply()
                raise AssertionError("it was let in")
            except Closed:
                pass
            daemon.client().must(STATUS)


def the_daemons_own_user():
    with daemon_with("access: []\n") as daemon:
        daemon.stop()
        os.chmod(daemon.directory, 0o777)
        for name in os.listdir(daemon.directory):
            os.chown(os.path.join(daemon.directory, name), NOBODY, NO_GROUP)

        def become():
            os.setgroups([])
            os.setresgid(NO_GROUP, NO_GROUP, NO_GROUP)
            os.setresuid(NOBODY, NOBODY, NOBODY)

        daemon.start(preexec_fn=become)
        make_drive(client_as(daemon, NOBODY), "a")
        assert client_as(daemon, READER, greet=False).call(HELLO, hello())[0] == PERMISSION
        daemon.client().must(DRIVE_SHOW, text("a"))


def a_reload():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        number = make_drive(root, "vm/a")
        client = client_as(daemon, USERS["track"])
        client.must(ATTACH, attach("vm/a", "w"))
        client.must(MARK, mark(number, [(0, 1)], first=1))
        write_config(daemon, "access:\n  - {user: %d, rights: [read]}\n" % USERS["track"])
        root.must(RELOAD)
        assert client.call(MARK, mark(number, [(4096, 1)], first=2))[0] == PERMISSION
        assert client.call(SETTLE, settle(number, [(1, 1)]))[0] == PERMISSION
        client.must(BITMAP_SHOW, text("vm/a/b"))
        write_config(daemon, "access:\n  - {user: 1, rights: [read]}\n")
        root.must(RELOAD)
        assert client.call(DRIVE_LIST)[0] == PERMISSION
        assert client.call(MARK, mark(number, [(4096, 1)], first=2))[0] == PERMISSION
        # A wrong file changes nothing.
        write_config(daemon, "access:\n  - {user: nobody-of-that-name, rights: [read]}\n")
        status, body = root.call(RELOAD)
        assert status == INVALID and b":3:12: access.user: expected a user of this host" in body, body
        assert client.call(DRIVE_LIST)[0] == PERMISSION
        write_config(daemon, RULES)
        root.must(RELOAD)
        client.must(MARK, mark(number, [(4096, 1)], first=2))
        assert root.map("vm/a/b") == [(0, 8192)]
        # What was decided for a drive is not kept when it gets another name.
        root.must(DRIVE_RENAME, drive_change("vm/a", "xx/a"))
        assert client.call(MARK, mark(number, [(0, 1)], first=3))[0] == PERMISSION
        other = client_as(daemon, USERS["track"])
        assert other.call(MARK, mark(number, [(0, 1)]))[0] == NOT_FOUND
        root.must(DRIVE_RENAME, drive_change("xx/a", "vm/a"))
        other.must(MARK, mark(number, [(0, 1)]))


def restricted_connections():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        number, other = make_drive(root, "vm/a"), make_drive(root, "vm/b")
        for rights, status in ((0, INVALID), (16, INVALID), (READ, PERMISSION), (ADMIN, PERMISSION),
                               (TRACK | READ, PERMISSION), (TRACK, OK)):
            assert client_as(daemon, USERS["track"]).call(RESTRICT, restrict("vm/a", rights))[0] == status
        client = daemon.client()
        client.must(MARK, mark(other, [(0, 1)], first=1))
        assert client.call(RESTRICT, restrict("vm/a", TRACK))[0] == BUSY
        assert client.call(RESTRICT, restrict("vm/none", TRACK))[0] == NOT_FOUND
        client = daemon.client()
        assert client.call(HELLO, hello())[0] == INVALID
        client.must(RESTRICT, restrict("vm/a", TRACK | READ))
        # root's connection, and yet:
        client.must(ATTACH, attach("vm/a", "w"))
        assert client.map("vm/a/b") == []
        for operation, payload in ((STATUS, b""), (DRIVE_SHOW, text("vm/a"))):
            client.must(operation, payload)
        for operation, payload in ((DRIVE_SHOW, text("vm/b")), (FLUSH, b""), (RELOAD, b""),
                                   (BITMAP_DELETE, change("vm/a/b")), (MAP, text("vm/b/b") + bytes(8)),
                                   (DRIVE_ADD, drive_add("vm/c", MIB)),
                                   (RESTRICT, restrict("vm/b", READ)),
                                   (RESTRICT, restrict("vm/a", OPERATE)),
                                   (RESTRICT, restrict("vm/a", ADMIN))):
            assert client.call(operation, payload)[0] == PERMISSION, operation
        assert client.call(MARK, mark(other, [(0, 1)]))[0] == NOT_FOUND
        assert [d["name"] for d in client.items(DRIVE_LIST, b"", drive_info)] == ["vm/a"]
        # Less is always possible, more never again.
        client.must(RESTRICT, restrict("vm/a", TRACK))
        assert client.call(RESTRICT, restrict("vm/a", READ | TRACK))[0] == PERMISSION
        assert client.call(BITMAP_SHOW, text("vm/a/b"))[0] == PERMISSION

        # Handed to a program of another user, which has no rights of its own.
        here, there = socket.socketpair()
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(AssertionError, OSError, Closed):
                os.setgroups([])
                os.setresgid(NO_GROUP, NO_GROUP, NO_GROUP)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
                mine = Client(None, connected=socket.socket(fileno=descriptors[0]))
                mine.must(MARK, mark(number, [(65536, 1)], first=1))
                mine.must(SETTLE, settle(number, [(1, 1)]))
                assert mine.call(FLUSH)[0] == PERMISSION
                assert mine.call(DRIVE_SHOW, text("vm/b"))[0] == PERMISSION
                mine.must(DETACH, struct.pack("<Q", number))
                status = 0
            os._exit(status)
        socket.send_fds(here, [b"x"], [client.socket.fileno()])
        client.close()
        assert os.waitpid(child, 0)[1] == 0
        assert root.map("vm/a/b") == [(65536, 4096)]

        # It is the drive that it is restricted to, not whatever has its name.
        client = daemon.client()
        client.must(RESTRICT, restrict("vm/b", ADMIN))
        root.must(DRIVE_RENAME, drive_change("vm/b", "vm/z"))
        root.must(DRIVE_ADD, drive_add("vm/b", MIB))
        assert client.call(DRIVE_SHOW, text("vm/b"))[0] == PERMISSION
        client.must(DRIVE_SHOW, text("vm/z"))


def denials_are_told_but_do_not_flood():
    with daemon_with(RULES) as daemon:
        root = daemon.client()
        make_drive(root, "vm/a")
        client = client_as(daemon, USERS["read"])
        for _ in range(2000):
            assert client.call(BITMAP_DELETE, change("vm/a/b"))[0] == PERMISSION
        # Nobody else's are lost among them.
        assert client_as(daemon, USERS["track"]).call(BITMAP_DELETE, change("vm/a/c"))[0] == PERMISSION
        lines = [line for line in daemon.messages().splitlines() if "not permitted" in line]
        assert 10 <= len(lines) <= 60, len(lines)
        assert "uid=%d" % USERS["track"] in lines[-1], lines[-1]
        assert "uid=%d" % USERS["read"] in lines[0] and "bitmap-delete needs operate" in lines[0]
        assert daemon.stop() == 0
        with contextlib.closing(sqlite3.connect(daemon.directory + "/catalog.sqlite3")) as catalog:
            rows = catalog.execute("SELECT drive, peer FROM events WHERE kind = 'denied'").fetchall()
        assert len(rows) == len(lines) and rows[0][0] == "vm/a" and "uid=" in rows[0][1], rows[:3]
        daemon.start()


def the_command_line_tells():
    with daemon_with(RULES) as daemon:
        make_drive(daemon.client(), "vm/a")
        # Where others may run it.
        program = shutil.copy(os.environ["BITMAPCTL"], daemon.directory)

        def bitmapctl(uid, *arguments):
            return subprocess.run([program, "-s", daemon.socket, *arguments], capture_output=True,
                                  text=True, timeout=60, cwd="/", user=uid, group=NO_GROUP,
                                  extra_groups=[])

        assert bitmapctl(USERS["read"], "bitmap", "show", "vm/a/b").returncode == 0
        result = bitmapctl(USERS["read"], "bitmap", "delete", "vm/a/b")
        assert result.returncode == 7 and not result.stdout, result
        assert "bitmap-delete needs operate on drive 'vm/a'" in result.stderr, result
        for arguments in (("status",), ("drive", "list"), ("flush",)):
            result = bitmapctl(NOBODY, *arguments)
            assert result.returncode == 7 and "not permitted" in result.stderr, result
        os.chmod(daemon.socket, 0o600)
        assert bitmapctl(NOBODY, "status").returncode == 7


def one_user_cannot_take_all_connections():
    with daemon_with("limits: {connections: 20, connections_per_user: 3}\n" + RULES) as daemon:
        crowd = [client_as(daemon, READER) for _ in range(3)]
        extra = client_as(daemon, READER, greet=False)
        operation, _, status, cookie, body = extra.reply()
        assert (operation, status, cookie) == (0, LIMIT, 0) and b"connections_per_user" in body
        others = [client_as(daemon, USERS["read"])] + [daemon.client() for _ in range(10)]
        assert all(one.call(STATUS)[0] == OK for one in crowd + others)
        crowd.pop().close()
        time.sleep(0.1)
        client_as(daemon, READER).must(STATUS)
    with daemon_with("limits: {connections: 8}\n" + RULES) as daemon:
        crowd = [client_as(daemon, READER) for _ in range(4)]
        assert client_as(daemon, READER, greet=False).reply()[2] == LIMIT
        assert all(one.call(STATUS)[0] == OK for one in crowd)


def requests_of_one_user_wait_for_one_another():
    with daemon_with("limits: {requests_per_user: 4}\n" + RULES) as daemon:
        root = daemon.client()
        number = make_drive(root, "vm/a")
        crowd = [client_as(daemon, USERS["track"]) for _ in range(8)]
        for turn in range(50):
            for i, one in enumerate(crowd):
                for j in range(8):
                    one.request(MARK, mark(number, [((turn * 64 + i * 8 + j) * 256 % MIB, 1)]))
        for one in crowd:
            for _ in range(50 * 8):
                assert one.reply()[2] == OK
        # One that ends in the middle gives its share back.
        for one in crowd[:4]:
            for _ in range(100):
                one.request(MARK, mark(number, [(0, 1)], first=0))
            one.close()
        for one in crowd[4:]:
            one.must(MARK, mark(number, [(0, 1)]))


def operators_cannot_take_all_bitmaps():
    with daemon_with("limits: {bitmaps_per_drive: 4}\n" + RULES) as daemon:
        root = daemon.client()
        make_drive(root, "vm/a")
        make_drive(root, "vm/b")
        client = client_as(daemon, USERS["operate"])
        request = os.urandom(16)
        # Two are there; checkpoints do not count.
        client.must(BITMAP_CREATE, bitmap_create("vm/a/x0", 4096))
        client.must(CHECKPOINT_CREATE, checkpoint_create("l", ["vm/a"]))
        first = client.must(BITMAP_CREATE, bitmap_create("vm/a/x1", 4096, request=request))
        status, body = client.call(BITMAP_CREATE, bitmap_create("vm/a/x2", 4096))
        assert status == LIMIT and b"limits.bitmaps_per_drive: drive 'vm/a' has 4" in body, (status, body)
        assert client.must(BITMAP_CREATE, bitmap_create("vm/a/x1", 4096, request=request)) == first
        # Nor in a transaction, of which nothing is left then; other drives have their own.
        parts = [(BITMAP_CREATE, bitmap_create("vm/b/x%d" % i, 4096)) for i in range(3)]
        assert client.call(TRANSACTION, transaction(parts))[0] == LIMIT
        client.must(TRANSACTION, transaction(parts[:2]))
        # A connection with fewer rights than its user has no more than these.
        less = daemon.client()
        less.must(RESTRICT, restrict("vm/a", OPERATE))
        assert less.call(BITMAP_CREATE, bitmap_create("vm/a/x2", 4096))[0] == LIMIT
        # Who administers the drive is not bound, and room that is made is room for all.
        client_as(daemon, USERS["admin"]).must(BITMAP_CREATE, bitmap_create("vm/a/x2", 4096))
        root.must(BITMAP_CREATE, bitmap_create("vm/a/x3", 4096))
        for name in ("x0", "x1", "x2"):
            client.must(BITMAP_DELETE, change("vm/a/" + name))
        client.must(BITMAP_CREATE, bitmap_create("vm/a/x4", 4096))
        assert client.call(BITMAP_CREATE, bitmap_create("vm/a/x5", 4096))[0] == LIMIT
        write_config(daemon, "limits: {bitmaps_per_drive: 5}\n" + RULES)
        root.must(RELOAD)
        client.must(BITMAP_CREATE, bitmap_create("vm/a/x5", 4096))


def maps_that_are_not_read():
    with daemon_with("limits: {map_memory: 4M}\n" + RULES) as daemon:
        root = daemon.client()
        number = drive_id(root.must(DRIVE_ADD, drive_add("vm/a", 1 << 33)))
        root.must(BITMAP_CREATE, bitmap_create("vm/a/b", 512))
        # Every other granule over some MiB of the bitmap's memory: 1 MiB of bits, 64 MiB of runs.
        for base in range(0, 1 << 32, 32 << 20):
            root.must(MARK, mark(number, [(base + 1024 * i, 1) for i in range(32768)]))
        ask = text("vm/a/b") + struct.pack("<Q", 0)
        slow, refused = [], 0
        for _ in range(6):
            client = client_as(daemon, READER)
            client.request(MAP, ask)
            _, flags, status, _, body = client.reply()
            assert status in (OK, LIMIT), (status, body)
            refused += status == LIMIT
            slow.append(client)
        assert 1 <= refused <= 5, refused
        # Others still get theirs, and so does this user once one is read, or gone.
        assert client_as(daemon, USERS["read"]).answer(MAP, ask)[-1][1] == OK
        for client in slow:
            client.close()
        time.sleep(0.1)
        assert client_as(daemon, READER).answer(MAP, ask)[-1][1] == OK


if os.geteuid() != 0:
    print("only root can be several users")
    sys.exit(77)
run([every_operation_with_every_right, nothing_is_revealed, several_drives_in_one_request,
     what_is_refused_is_not_looked_at, repeats_are_for_those_who_may, groups, nobody, the_daemons_own_user, a_reload,
     restricted_connections, denials_are_told_but_do_not_flood,
     the_command_line_tells,
     one_user_cannot_take_all_connections, requests_of_one_user_wait_for_one_another,
     operators_cannot_take_all_bitmaps, maps_that_are_not_read])
