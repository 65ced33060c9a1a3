/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_FUZZ_MEMORY_H
#define BITMAPD_TESTS_FUZZ_MEMORY_H

#include "daemon/base/file.h"

/*
 * A file in memory for one run of a fuzz target.  Unlike the simulated disk it
 * has no cache to lose: what it is for is speed, and to count what is read.
 * There is one at a time; its pages are used again by the next.
 */
#define MEMORY_BYTES_MAX (UINT64_C(80) << 20)

struct memory {
    struct file file;
    uint8_t *bytes;
    uint64_t size;
    uint64_t limit;      /* growth past it fails with -ENOSPC */
    uint64_t read_bytes; /* so far */
    uint64_t changes;    /* calls that write, resize or sync */
    uint64_t calls;      /* all */
    uint64_t fail_call;  /* this one fails with -EIO; 0: none */
    bool failed;
};

/* An empty file of @size <= MEMORY_BYTES_MAX zero bytes. */
void memory_open(struct memory *memory, uint64_t size);
void memory_release(struct memory *memory);

#endif
