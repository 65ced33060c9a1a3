/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images by real QEMU, of all the kinds that differ in what leads to their
 * clusters, and small.
 */
#include "tests/container/images.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CREATE "qemu-img create -q -f qcow2 "
#define IO     "qemu-io -f qcow2 "

const struct image images[] = {
    {"empty", CREATE "-o cluster_size=4K image.qcow2 0", .spread = true},
    {"plain", CREATE "image.qcow2 8M; " IO "-c 'write -P 1 0 64K' -c 'write -z 2M 1M' image.qcow2",
     .spread = true, .once = true},
    {"small clusters",
     CREATE "-o cluster_size=1K image.qcow2 3M; " IO "-c 'write -P 1 512K 100K' image.qcow2",
     .spread = true, .once = true},
    {"large clusters",
     CREATE "-o cluster_size=2M image.qcow2 64M; " IO "-c 'write -P 1 5M 1' image.qcow2",
     .spread = true, .once = true},
    {"narrow refcounts",
     CREATE "-o refcount_bits=1,cluster_size=4K image.qcow2 8M; " IO
            "-c 'write -P 1 1M 100K' image.qcow2",
     .spread = true, .once = true},
    {"wide refcounts",
     CREATE "-o refcount_bits=64,cluster_size=1K image.qcow2 8M; " IO
            "-c 'write -P 1 0 100K' image.qcow2",
     .spread = true},
    {"snapshots",
     CREATE "-o cluster_size=8K,lazy_refcounts=on image.qcow2 8M; " IO
            "-c 'write -P 1 0 100K' image.qcow2; qemu-img snapshot -c one image.qcow2; " IO
            "-c 'write -P 2 50K 50K' -c 'write -P 3 5M 16K' image.qcow2; "
            "qemu-img snapshot -c two image.qcow2; " IO "-c 'discard 0 64K' image.qcow2",
     .spread = true},
    {"smallest clusters",
     CREATE "-o cluster_size=512 image.qcow2 1M; " IO "-c 'write -P 1 100K 100K' image.qcow2",
     .spread = true, .once = true},
    {"backing file",
     CREATE "base.qcow2 8M; " IO "-c 'write -P 9 0 64K' base.qcow2; " CREATE
            "-b base.qcow2 -F qcow2 -o cluster_size=8K image.qcow2; " IO
            "-c 'write -P 1 10K 100K' image.qcow2",
     .spread = true},
    {"backing file and no room to spread",
     "d=$(printf %0220d 0)/$(printf %0220d 0); mkdir -p $d; " CREATE "$d/base 1M; " CREATE
     "-b $d/base -F qcow2 -o cluster_size=1K image.qcow2",
     .spread = false},
    {"compressed",
     "head -c 50000 /dev/urandom | base64 -w 0 >raw; truncate -s 1M raw; "
     "qemu-img convert -c -f raw -O qcow2 -o cluster_size=8K raw image.qcow2; " IO
     "-c 'write -c -P 1 640K 8K' -c 'write -c -P 2 648K 8K' -c 'write -P 3 768K 8K' image.qcow2",
     .spread = true},
    {"bitmaps of QEMU's",
     CREATE "-o cluster_size=8K image.qcow2 8M; qemu-img bitmap --add -g 64K image.qcow2 b0; " IO
            "-c 'write -P 1 1M 64K' image.qcow2; qemu-img bitmap --add image.qcow2 b1",
     .spread = true},
    {"preallocated",
     CREATE "-o preallocation=metadata,cluster_size=4K image.qcow2 1M; " IO
            "-c 'write -P 1 0 4K' image.qcow2",
     .spread = true, .once = true},
};

const size_t images_count = sizeof images / sizeof images[0];

static struct made {
    uint8_t *bytes;
    uint64_t length;
    uint32_t *crcs; /* of the clusters of its disk; 0 for others */
    bool *of_disk;
    uint64_t clusters;
    uint32_t cluster_bits;
} made[sizeof images / sizeof images[0]];

bool images_can_be_made(void)
{
    return system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1") == 0;
}

/* Which clusters belong to the disk, by the same walk that is under test: the tests with real QEMU
 * have the last word. */
static void note_disk(struct made *m)
{
    struct simdisk *disk = simdisk_from(m->bytes, m->length, 1);
    struct container *c;
    struct error e;

    OK(container_load(simdisk_file(disk), LOAD_UNPREPARED, NULL, &c, &e), e);
    m->cluster_bits = c->header.cluster_bits;
    m->clusters = m->length >> m->cluster_bits;
    m->of_disk = calloc(m->clusters + 1, sizeof *m->of_disk);
    m->crcs = calloc(m->clusters + 1, sizeof *m->crcs);
    assert_non_null(m->of_disk);
    assert_non_null(m->crcs);
    for (uint64_t i = 0; i < m->clusters; i++) {
        m->of_disk[i] = c->space.refs[i] == REFS_PINNED;
        m->crcs[i] = crc32c(0, m->bytes + (i << m->cluster_bits), (size_t)1 << m->cluster_bits);
    }
    container_unload(c);
    simdisk_free(disk);
}

static void make(const struct image *image, struct made *m)
{
    char directory[] = "/tmp/bitmapd-test-XXXXXX", command[1200], path[64];

    assert_non_null(mkdtemp(directory));
    int n = snprintf(command, sizeof command, "set -e; exec >/dev/null; cd %s; %s", directory,
                     image->commands);
    assert_true(n > 0 && (size_t)n < sizeof command);
    if (system(command) != 0) {
        fail_msg("cannot make the image \"%s\"", image->name);
    }
    (void)snprintf(path, sizeof path, "%s/image.qcow2", directory);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    m->length = (uint64_t)ftell(f);
    rewind(f);
    m->bytes = malloc(m->length);
    assert_non_null(m->bytes);
    assert_int_equal(fread(m->bytes, 1, m->length, f), m->length);
    assert_int_equal(fclose(f), 0);
    (void)snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
    note_disk(m);
}

static struct made *made_of(const struct image *image)
{
    struct made *m = &made[image - images];

    if (!m->bytes) {
        make(image, m);
    }
    return m;
}

const uint8_t *image_bytes_of(const struct image *image, uint64_t *ret_bytes)
{
    const struct made *m = made_of(image);

    *ret_bytes = m->length;
    return m->bytes;
}

struct simdisk *image_disk(const struct image *image, uint64_t seed)
{
    const struct made *m = made_of(image);

    return simdisk_from(m->bytes, m->length, seed);
}

const struct image *image_named(const char *name)
{
    for (size_t i = 0; i < images_count; i++) {
        if (strcmp(images[i].name, name) == 0) {
            return &images[i];
        }
    }
    fail_msg("no image \"%s\"", name);
    return NULL;
}

int image_adopt(struct simdisk *disk, struct error *error)
{
    const struct uuid boot_id = test_uuid(0x30);
    const struct file_identity identity = {.inode = 42, .birth_time_ns = 43};
    struct container_info info;

    return container_adopt(simdisk_file(disk), &boot_id, &identity, &info, error);
}

void image_check_disk(const struct image *image, struct simdisk *disk)
{
    const struct made *m = made_of(image);
    uint64_t size;
    const uint8_t *bytes = simdisk_bytes(disk, &size);

    for (uint64_t i = 0; i < m->clusters; i++) {
        uint64_t at = i << m->cluster_bits;
        if (m->of_disk[i] && (size < at + (UINT64_C(1) << m->cluster_bits) ||
                              crc32c(0, bytes + at, (size_t)1 << m->cluster_bits) != m->crcs[i])) {
            fail_msg("image \"%s\": cluster %u of its disk has changed", image->name, (unsigned)i);
        }
    }
}
