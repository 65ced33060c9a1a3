/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: a hostile file is checked, opened for reading, and read.
 *
 *   - what is refused has words, and nothing is ever written;
 *   - what the check calls sound opens without any damage, and what opens with
 *     damage is found by the check;
 *   - as much is read as the file's size allows for, whatever its fields claim.
 */
#include "tests/fuzz/input.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/view.h"

#include <errno.h>

/* Headers, and the mirror's search in a file full of things that look like one. */
#define READ_FACTOR   16u
#define READ_CONSTANT 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input;
    struct container_check_report report = {0};
    struct memory *m = &input.memory;

    input_decode(data, size, &input);
    int checked = view_check(&m->file, &report);
    MUST(m->read_bytes <= READ_FACTOR * m->size + READ_CONSTANT);
    m->read_bytes = 0;
    struct container *c = view_open(&m->file, 0);
    MUST(m->read_bytes <= READ_FACTOR * m->size + READ_CONSTANT);
    if (c) {
        struct view view;
        view_take(c, &view);
        bool damage = view_has_damage(&view) || view.info.used_mirror;
        MUST(checked == 0 || checked == -ENOTSUP);
        MUST(!damage || checked == -ENOTSUP || report.corruptions > 0);
        MUST(view.info.leaked_clusters == 0 || checked == -ENOTSUP ||
             report.corruptions + report.leaks > 0);
        view_release(&view);
        container_close(c);
    } else {
        MUST(checked < 0 || report.corruptions > 0);
    }
    MUST(m->changes == 0);
    memory_release(m);
    return 0;
}
