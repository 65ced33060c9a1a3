/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What opening and checking a file may cost: so many bytes of memory and of
 * reading for each byte the file has, whatever its fields claim.  Memory is
 * bounded by the kernel (RLIMIT_AS) in a process of its own, since nothing else
 * sees all of it; reading is counted.  No time is measured.
 */
#include "tests/container/hostile.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MEMORY_FACTOR   24u
#define MEMORY_CONSTANT (UINT64_C(6) << 20) /* two clusters of the largest size, buffers */
#define READ_FACTOR     16u
#define READ_CONSTANT   65536u

#ifdef __SANITIZE_ADDRESS__
#define LIMIT_MEMORY false /* its shadow has no limit */
#else
#define LIMIT_MEMORY true
#endif
#define EXTENSIONS_BYTES (UINT64_C(1) << 21)

/* A file that is read only, and counts. */
struct counter {
    struct file file;
    const uint8_t *bytes;
    uint64_t size;
    uint64_t read_bytes;
};

static int counter_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    struct counter *c = (struct counter *)file;

    if (offset > c->size || length > c->size - offset) {
        return -ENODATA;
    }
    c->read_bytes += length;
    memcpy(buffer, c->bytes + offset, length);
    return 0;
}

static int counter_size(struct file *file, uint64_t *ret_size)
{
    *ret_size = ((struct counter *)file)->size;
    return 0;
}

static void counter_close(struct file *file)
{
    (void)file;
}

static const struct file_ops counter_ops = {
    .read = counter_read,
    .size = counter_size,
    .close = counter_close,
};

static void limit_memory(uint64_t size)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%lu", &pages) != 1) {
        _exit(2);
    }
    (void)fclose(f);
    (void)malloc_trim(0);
    const rlim_t most =
        pages * (uint64_t)sysconf(_SC_PAGESIZE) + MEMORY_FACTOR * size + MEMORY_CONSTANT;
    const struct rlimit limit = {.rlim_cur = most, .rlim_max = most};
    if (setrlimit(RLIMIT_AS, &limit) < 0) {
        _exit(2);
    }
}

/* 0: within bounds; otherwise says what was not.  In a process that is about to exit. */
static int measure(const char *what, const uint8_t *bytes, uint64_t size)
{
    struct counter file = {.file = {.ops = &counter_ops}, .bytes = bytes, .size = size};
    struct container_check_report report;
    struct container *c;
    struct error e = {{0}};

    for (unsigned round = 0; round < 2; round++) {
        file.read_bytes = 0;
        int r = round ? container_check(&file.file, NULL, NULL, &report, &e)
                      : container_open(&file.file, 0, &c, &e);
        if (r == 0 && round == 0) {
            container_close(c);
        }
        if (r == -ENOMEM) {
            (void)printf("%s: %s: out of memory\n", what, round ? "check" : "open");
            return 1;
        }
        if (file.read_bytes > READ_FACTOR * size + READ_CONSTANT) {
            (void)printf("%s: %s: %llu bytes read of %llu\n", what, round ? "check" : "open",
                         (unsigned long long)file.read_bytes, (unsigned long long)size);
            return 1;
        }
    }
    return 0;
}

static void assert_child(int (*run)(void))
{
    int status;

    (void)fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int r = run();
        (void)fflush(stdout);
        _exit(r);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- every number, as large as it can be ---- */

struct number {
    const uint64_t *base; /* NULL: 0 */
    unsigned offset, bytes;
    bool little;
};

static uint64_t at_private = HEADER_BYTES + 8;

static const struct number numbers[] = {
    {NULL, HEADER_BACKING_OFFSET, 8, false},
    {NULL, HEADER_CLUSTER_BITS, 4, false},
    {NULL, HEADER_L1_ENTRIES, 4, false},
    {NULL, HEADER_REFCOUNT_TABLE_OFFSET, 8, false},
    {NULL, HEADER_REFCOUNT_TABLE_CLUSTERS, 4, false},
    {NULL, HEADER_SNAPSHOTS, 4, false},
    {NULL, HEADER_REFCOUNT_ORDER, 4, false},
    {NULL, HEADER_LENGTH, 4, false},
    {NULL, HEADER_BITMAPS, 4, false},
    {NULL, HEADER_BITMAPS_OFFSET, 8, false},
    {NULL, HEADER_BYTES + 4, 4, false},
    {NULL, CLUSTER, 8, false}, /* refcount table */
    {NULL, CLUSTER + 8, 8, false},
    {&at_private, PRIVATE_STATE_OFFSET, 8, false},
    {&at_private, PRIVATE_STATE_LENGTH, 8, false},
    {&at_private, PRIVATE_MIRROR_OFFSET, 8, false},
    {&at_private, PRIVATE_FIELDS, 4, false},
    {&at_private, PRIVATE_FIELDS + 4, 8, false},
    {&at_table, TABLE_L1_OFFSET, 8, false},
    {&at_table, TABLE_L1_ENTRIES, 4, false},
    {&at_table, TABLE_GRANULARITY, 4, false},
    {&at_table, TABLE_SECTORS, 8, false},
    {&at_table, TABLE_NAME_LENGTH, 2, false},
    {&at_l1[0], 0, 8, false},
    {&at_state, STATE_LENGTH, 8, true},
    {&at_state, STATE_PAYLOAD_LENGTH, 8, true},
    {&at_state, STATE_TABLE_LENGTH, 8, true},
    {&at_state, STATE_TABLE_ENTRIES, 4, true},
    {&at_state, STATE_HEADER_BYTES + STATE_ENTRY_CRCS, 4, true},
};

static const uint64_t values[] = {
    21,
    65535,
    65536,
    1u << 20,
    1u << 24,
    0x7fffffff,
    0xffffffff,
    UINT64_C(1) << 32,
    UINT64_C(1) << 40,
    UINT64_C(1) << 55,
    UINT64_MAX & ~UINT64_C(511),
    UINT64_MAX,
};

#define NUMBERS (sizeof numbers / sizeof numbers[0])
#define VALUES  (sizeof values / sizeof values[0])

static void put(uint8_t *bytes, const struct number *n, uint64_t value)
{
    uint8_t *p = bytes + (n->base ? *n->base : 0) + n->offset;

    for (unsigned i = 0; i < n->bytes; i++) {
        p[n->little ? i : n->bytes - 1 - i] = (uint8_t)(value >> (8 * i));
    }
}

static int run_claims(void)
{
    uint8_t *bytes = malloc(image_bytes);

    if (!bytes) {
        return 2;
    }
    if (LIMIT_MEMORY) {
        limit_memory(image_bytes);
    }
    /* One of them, and two of them: a giant length goes with a giant number of entries. */
    for (size_t i = 0; i < NUMBERS; i++) {
        for (size_t k = i; k < NUMBERS; k++) {
            for (size_t v = 0; v < VALUES; v++) {
                char what[80];
                memcpy(bytes, image, image_bytes);
                put(bytes, &numbers[i], values[v]);
                put(bytes, &numbers[k], values[(v + i + k) % VALUES]);
                layout_seal(bytes, image_bytes);
                (void)snprintf(what, sizeof what, "numbers %zu and %zu, value %zu", i, k, v);
                int r = measure(what, bytes, image_bytes);
                if (r != 0) {
                    return r;
                }
            }
        }
    }
    free(bytes);
    return 0;
}

static void giant_claims(void **state)
{
    (void)state;
    assert_child(run_claims);
}

/* ---- files made to be expensive ---- */

#define LARGE (UINT64_C(4) << 20)

static uint8_t *large;
static const char *large_what;

static int run_large(void)
{
    if (LIMIT_MEMORY) {
        limit_memory(LARGE);
    }
    return measure(large_what, large, LARGE);
}

static void measure_large(const char *what)
{
    large_what = what;
    assert_child(run_large);
}

static int make_large(void **state)
{
    (void)state;
    large = calloc(1, LARGE);
    return large ? 0 : -1;
}

static int free_large(void **state)
{
    (void)state;
    free(large);
    return 0;
}

/* Headers at every sector, of which none is the mirror, each with a cluster as large as can be. */
static void many_mirrors(void **state)
{
    (void)state;
    for (unsigned aligned = 0; aligned < 2; aligned++) {
        for (uint64_t at = 0; at < LARGE; at += 512) {
            uint32_t bits = 21;
            while (aligned && at % (UINT64_C(1) << bits) != 0) {
                bits--;
            }
            memcpy(large + at, image, 512);
            store_be32(large + at + HEADER_CLUSTER_BITS, bits);
        }
        measure_large(aligned ? "mirrors where they could be" : "mirrors anywhere");
    }
}

/* A header full of extensions without data. */
static void many_extensions(void **state)
{
    (void)state;
    memcpy(large, image, HEADER_BYTES);
    store_be32(large + HEADER_CLUSTER_BITS, 21);
    store_be64(large + HEADER_AUTOCLEAR, 0);
    for (uint64_t at = HEADER_BYTES; at + 8 < EXTENSIONS_BYTES; at += 8) {
        store_be32(large + at, 7);
    }
    measure_large("extensions");
}

/* A table of as many entries as there is room for, each with something to complain about. */
static void many_bitmaps(void **state)
{
    (void)state;
    for (unsigned ours = 0; ours < 2; ours++) {
        memset(large, 0, LARGE);
        memcpy(large, image, image_bytes);
        if (!ours) {
            memset(large + HEADER_BYTES, 0, 512 - HEADER_BYTES);
            memset(large + at_mirror, 0, 512);
            store_be64(large + HEADER_AUTOCLEAR, 0);
        }
        uint8_t *fields = ours ? large + at_private + PRIVATE_FIELDS : large + HEADER_BITMAPS;
        store_be32(fields, CONTAINER_BITMAPS_MAX);
        store_be64(fields + 4, LARGE - UINT64_C(32) * 65536);
        for (uint64_t i = 0; i < CONTAINER_BITMAPS_MAX; i++) {
            uint8_t *p = large + LARGE - UINT64_C(32) * 65536 + i * 32;
            store_be64(p, i * 512);
            store_be32(p + TABLE_L1_ENTRIES, 7);
            store_be32(p + TABLE_GRANULARITY, 512);
            store_be64(p + TABLE_SECTORS, i);
            store_be16(p + TABLE_NAME_LENGTH, 5);
            memcpy(p + TABLE_NAME, "\1\2\3\4\5", 5);
        }
        layout_seal(large, LARGE);
        measure_large(ours ? "bitmaps" : "foreign bitmaps");
    }
}

static void count_lines(void *opaque, bool corruption, const char *text)
{
    (void)corruption;
    (void)text;
    ++*(uint64_t *)opaque;
}

/* Every other counter of a large block says that something is in use. */
static void many_differences(void **state)
{
    const uint64_t cluster = UINT64_C(1) << 16;
    struct container_check_report report;
    struct error e;
    uint64_t lines = 0, size;

    (void)state;
    struct simdisk *disk = test_container(16, seed);
    test_set_refcount_order(simdisk_file(disk), 0);
    uint8_t *bytes = simdisk_bytes(disk, &size);
    memset(bytes + 2 * cluster + 1, 0x55, cluster - 1); /* the block's second byte and on */
    OK(container_check(simdisk_file(disk), count_lines, &lines, &report, &e), e);
    assert_int_equal(report.corruptions, 0);
    assert_int_equal(report.leaks, (cluster - 1) * 4);
    assert_in_range(lines, 1000, 1001);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(giant_claims),
        cmocka_unit_test_setup_teardown(many_mirrors, make_large, free_large),
        cmocka_unit_test_setup_teardown(many_extensions, make_large, free_large),
        cmocka_unit_test_setup_teardown(many_bitmaps, make_large, free_large),
        cmocka_unit_test(many_differences),
    };

    seed = 1;
    return cmocka_run_group_tests(tests, hostile_make_image, hostile_free_image);
}
