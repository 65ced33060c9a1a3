#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the plugin refuses to start with, and how it says so."""

import os

import stack as e2e

SIZE = 1 << 20


def expect_refusal(stack, words, raw, drive, *parameters):
    code, text = stack.run_nbdkit(raw, drive, *parameters)
    assert code != 0, f"nbdkit ended with 0: {text}"
    for word in words:
        assert word in text, f"expected {word!r} in: {text}"
    assert "AddressSanitizer" not in text and "runtime error" not in text, text


def main():
    e2e.need_tools("nbdkit")
    with e2e.Stack() as stack:
        raw = stack.make_raw("raw", SIZE)
        expect_refusal(stack, ["connecting to bitmapd", stack.socket], raw, "vm1")

        stack.start_daemon()
        expect_refusal(stack, ["vm1", "no"], raw, "vm1")
        stack.add_drive("vm1", raw)

        # Another size: it names the way out, and that works.
        os.truncate(raw, SIZE + 512)
        command = f"bitmapctl drive resize vm1 --size {SIZE + 512}"
        expect_refusal(stack, [str(SIZE), command], raw, "vm1")
        shown = stack.ctl_json("drive", "show", "vm1")
        assert shown["writers"] == 0 and shown["lost_writers"] == 0, shown
        stack.ctl(*command.split()[1:])
        nbdkit = stack.start_nbdkit(raw, "vm1")

        # One token, one writer.
        expect_refusal(stack, ["nbdkit-vm1", "attached already"], raw, "vm1")
        nbdkit.check_running()
        nbdkit.stop()

        empty = stack.make_raw("empty", 0)
        expect_refusal(stack, ["empty"], empty, "vm1")
        expect_refusal(stack, ["neither"], "/dev/null", "vm1")
        if not os.environ.get("BITMAPD_PRELOAD"):
            # Beside a sanitizer's runtime nbdkit, with any plugin, hangs at its exit once it has
            # printed an errno's text.
            expect_refusal(stack, ["nonexistent"], stack.path("nonexistent"), "vm1")
        expect_refusal(stack, ["mark-align", "power of two"], raw, "vm1", "mark-align=3000")
        expect_refusal(stack, ["mark-align"], raw, "vm1", "mark-align=0")
        expect_refusal(stack, ["mark-align"], raw, "vm1", "mark-align=-1")
        expect_refusal(stack, ["reconnect-timeout"], raw, "vm1", "reconnect-timeout=soon")
        expect_refusal(stack, ["writer"], raw, "vm1", "writer=a b")
        expect_refusal(stack, ["drive"], raw, "a@b")
        expect_refusal(stack, ["unknown parameter", "nonsense"], raw, "vm1", "nonsense=1")
        stack.start_nbdkit(raw, "vm1").stop()


if __name__ == "__main__":
    main()
