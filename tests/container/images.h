/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CONTAINER_IMAGES_H
#define BITMAPD_TESTS_CONTAINER_IMAGES_H

#include "tests/container/support.h"

/*
 * Images with a disk of their own, made by the real qemu-img and qemu-io, on
 * simulated disks.
 */
struct image {
    const char *name;
    const char *commands; /* shell; the image is image.qcow2 */
    bool spread;          /* its header can be switched in one sector */
    bool once;            /* not for tests that go through every call: much the same as another */
};

extern const struct image images[];
extern const size_t images_count;

bool images_can_be_made(void);
/* The image's bytes, made once and then remembered; not to be freed. */
const uint8_t *image_bytes_of(const struct image *image, uint64_t *ret_bytes);
struct simdisk *image_disk(const struct image *image, uint64_t seed);
const struct image *image_named(const char *name);

/* Makes it an internal container, as bitmapctl does. */
int image_adopt(struct simdisk *disk, struct error *error);

/* Fails the test where a cluster of the original's disk is not what it was. */
void image_check_disk(const struct image *image, struct simdisk *disk);

#endif
