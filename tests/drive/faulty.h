/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_FAULTY_H
#define BITMAPD_TESTS_DRIVE_FAULTY_H

#include "daemon/base/file.h"

/* The kernel's files, whose reads fail while they are told to; any thread. */
extern struct file_system faulty_files;

/* 0: nothing fails. */
void faulty_reads_fail(int error);
/* Only reads of what begins so; @length <= 64. */
void faulty_reads_fail_of(int error, const void *bytes, size_t length);

/*
 * Flips a bit of the one place in the file that holds @bytes; fails the test where there is none
 * or where there are several.
 */
void faulty_damage(const char *path, const void *bytes, size_t length);

#endif
