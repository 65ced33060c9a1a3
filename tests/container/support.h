/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CONTAINER_SUPPORT_H
#define BITMAPD_TESTS_CONTAINER_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/container/internal.h"
#include "tests/common/simdisk.h"

/* Asserts success of a call that fills an error, and shows its words otherwise. */
#define OK(call, error)                                       \
    do {                                                      \
        int ok_ = (call);                                     \
        if (ok_ != 0) {                                       \
            fail_msg("%s: %d, %s", #call, ok_, (error).text); \
        }                                                     \
    } while (0)

struct uuid test_uuid(uint8_t first);

/* A fresh container. */
void test_format(struct file *file, uint32_t cluster_bits);
/* The same, on a simulated disk. */
struct simdisk *test_container(uint32_t cluster_bits, uint64_t seed);

/* The same container with refcounts of another width, as another tool could have made it. */
void test_set_refcount_order(struct file *file, uint32_t order);

/*
 * An empty file of the kernel's that has no name, for what is too large for a
 * simulated disk; close() it.  Opened as often as needed, each time to be closed
 * with file_close() or container_close().  Syncs do nothing.
 */
int test_real_file(void);
struct file *test_open_file(int fd);

/* The same container with a header of so many bytes, the last of them unknown to us. */
void test_lengthen_header(struct simdisk *disk, uint32_t length);

struct container *test_open(struct simdisk *disk, unsigned flags);

/* A commit whose payload is the text. */
int test_commit(struct container_txn *txn, const char *state, struct error *error);
/* A commit of nothing but the payload. */
int test_commit_state(struct container *container, const char *state, struct error *error);

/* A number for everything the container says it holds; fails the test where it cannot be read. */
uint64_t test_digest(struct container *container);

/* Bytes that are different for each (id, l1_index, generation), and not all zero. */
void test_pattern(uint8_t *bytes, size_t length, uint64_t id, uint32_t l1_index,
                  uint32_t generation);

struct container_check_report test_check(struct simdisk *disk, bool show);
/* No corruptions; leaks are shown by their number only. */
void test_check_sound(struct simdisk *disk);
/* The same, but for a torn header that its mirror makes good. */
void test_check_sound_but_header(struct simdisk *disk);

#endif
