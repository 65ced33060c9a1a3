/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: a hostile file is repaired, then compacted.
 *
 *   - what is refused has words, and is not touched;
 *   - after a repair the check finds nothing, but of a disk of the image's own,
 *     and a second repair has nothing to do;
 *   - a bitmap that passed for good before, and still does, has the bits it had;
 *   - compacting changes no answer, and leaves nothing for the check to find.
 */
#include "tests/fuzz/input.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/view.h"

#include <errno.h>

static void lost(void *opaque, const char *text)
{
    MUST(text[0] != '\0');
    ++*(uint64_t *)opaque;
}

/* False when it was refused. */
static bool repair(struct memory *m, struct container_repair_report *report)
{
    uint64_t losses = 0, before = m->changes;
    const struct container_repair_calls calls = {.lost = lost, .opaque = &losses};
    struct error error = {{0}};

    int r = container_repair(&m->file, &calls, report, &error);
    if (r == -ENOSPC) {
        MUST(error.text[0] != '\0'); /* what it was is still there, for a larger disk */
        return false;
    }
    if (r < 0) {
        view_check_refusal(r, &error);
        MUST(m->changes == before);
        return false;
    }
    MUST(report->losses == losses);
    return true;
}

/* Names and places may be others, bits not. */
static void compare_good(const struct view *before, const struct view *after)
{
    for (uint32_t i = 0; i < before->info.bitmaps; i++) {
        const struct view_bitmap *x = &before->bitmaps[i], *y = view_find(after, x->id);
        MUST(x->id == 0 || !x->good || !y || !y->good || x->bits == y->bits);
    }
}

static void compact(struct memory *m, const struct view *before)
{
    struct container_compact_report report;
    struct container_check_report check;
    struct error error = {{0}};
    struct view after;
    struct container *c;

    int r = container_compact(&m->file, &report, &error);
    if (r < 0) {
        /* Bits that no CRC vouches for may be cut off with the file. */
        MUST(error.text[0] != '\0');
        return;
    }
    MUST(view_check(&m->file, &check) == 0 && check.corruptions == 0);
    c = view_open(&m->file, 0);
    MUST(c);
    view_take(c, &after);
    MUST(after.info.bitmaps == before->info.bitmaps && after.payload == before->payload);
    for (uint32_t i = 0; i < after.info.bitmaps; i++) {
        const struct view_bitmap *x = &before->bitmaps[i], *y = &after.bitmaps[i];
        MUST(x->id == y->id && x->shape == y->shape && x->good == y->good);
        MUST(!x->good || x->bits == y->bits);
    }
    view_release(&after);
    container_close(c);
}

static void look_at_repaired(struct memory *m, const struct view *before)
{
    struct container_repair_report again;
    struct view after;

    uint64_t changes = m->changes;
    MUST(repair(m, &again) && again.repaired == 0 && again.losses == 0);
    MUST(m->changes == changes);
    struct container *c = view_open(&m->file, CONTAINER_OPEN_WRITE);
    MUST(c);
    view_take(c, &after);
    container_close(c);
    if (before) {
        compare_good(before, &after);
    }
    compact(m, &after);
    view_release(&after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct container_repair_report report;
    struct input input;
    struct memory *m = &input.memory;
    struct view before;

    input_decode(data, size, &input);
    struct container *c = view_open(&m->file, 0);
    bool opens = c != NULL;
    if (c) {
        view_take(c, &before);
        container_close(c);
    }
    if (repair(m, &report)) {
        /* A disk's own refcounts are left to QEMU. */
        bool disk = opens && before.info.virtual_size > 0;
        MUST(disk || report.left.corruptions + report.left.leaks == 0);
        if (report.left.corruptions + report.left.leaks == 0) {
            look_at_repaired(m, opens ? &before : NULL);
        }
    }
    if (opens) {
        view_release(&before);
    }
    memory_release(m);
    return 0;
}
