/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz_seeds DIRECTORY [CLUSTER_BITS]: what fuzzing starts from, an input for
 * every cluster size (up to the one given) and refcount width, with bitmaps of
 * several shapes, and one as a tool that knows only the draft would have
 * written it.
 *
 * They are made anew each time rather than kept, so that they follow the
 * format.  What is kept, in corpus/, are findings.
 */
#include "tests/common/layout.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/view.h"

#include "daemon/container/internal.h"

/* A number that reads as an operation of target_commit.c, with its arguments. */
static const uint8_t scripts[][24] = {
    {0, 30, 0, 12, 1, 30, 0, 0, 7, 3, 0, 0, 1, 128, 3, 0, 3, 129, 0, 0, 7, 8, 0, 0},
    {6, 128, 0, 0, 7, 1, 0, 0, 9, 0, 0, 0, 4, 128, 9, 0, 5, 129, 14, 0, 7, 2, 0, 0},
    {11, 9, 0, 0, 0, 31, 3, 14, 2, 31, 0, 0, 7, 1, 0, 0, 10, 0, 9, 1, 7, 1, 0, 0},
};

static void must(int r, const struct error *error)
{
    if (r < 0) {
        (void)fprintf(stderr, "fuzz_seeds: %s\n", error->text);
        exit(1);
    }
}

static void add(struct container_txn *t, uint64_t id, uint32_t granularity, uint64_t l1_entries,
                uint32_t cluster_bits, struct error *error)
{
    char name[] = {'d', '/', (char)('a' + id), '\0'};
    uint64_t granules = (l1_entries - 1) * (UINT64_C(8) << cluster_bits) + 13;

    must(container_txn_add(t, id, name, granularity, granules * (granularity / 512), error), error);
    must(container_txn_write(t, id, 0, "some", 1, error), error);
    must(container_txn_write(t, id, (uint32_t)l1_entries - 1, "!\1", 2, error), error);
}

static void fill(struct file *file, uint32_t cluster_bits)
{
    struct container *c;
    struct container_txn *t;
    struct error error;
    struct container_commit_options options = {.state = "state", .state_bytes = 5};

    must(container_open(file, CONTAINER_OPEN_WRITE, &c, &error), &error);
    /* Of the largest clusters few fit an input's file. */
    const uint8_t rounds = cluster_bits == CONTAINER_CLUSTER_BITS_MAX ? 1 : 2;
    for (uint8_t round = 1; round <= rounds; round++) {
        must(container_begin(c, &t, &error), &error);
        if (round == 1) {
            add(t, 1, 512, 1, cluster_bits, &error);
            if (rounds > 1) {
                add(t, 2, 65536, 3, cluster_bits, &error);
            }
            if (cluster_bits <= 10) { /* an L1 table of several clusters */
                add(t, 3, 512, (UINT64_C(1) << cluster_bits) / 8 + 2, cluster_bits, &error);
            }
        } else {
            must(container_txn_write(t, 2, 1, "\xff\xff", 2, &error), &error);
            must(container_txn_zero(t, 2, 0, &error), &error);
        }
        options.commit_id.bytes[0] = round;
        options.applied_seq = round;
        must(container_commit(t, &options, NULL, &error), &error);
    }
    container_close(c);
}

/* The refcounts of a fresh container, in another width. */
static void set_refcount_order(struct memory *m, uint32_t order)
{
    uint64_t block = load_be64(m->bytes + load_be64(m->bytes + HEADER_REFCOUNT_TABLE_OFFSET));

    store_be32(m->bytes + HEADER_REFCOUNT_ORDER, order);
    memset(m->bytes + block, 0, UINT64_C(1) << load_be32(m->bytes + HEADER_CLUSTER_BITS));
    layout_count(m->bytes, m->size);
    layout_seal(m->bytes, m->size);
}

/* Without our extension: the mirror is a stranger's cluster then. */
static void make_foreign(struct memory *m)
{
    struct layout layout;

    layout_find(m->bytes, m->size, &layout);
    memset(m->bytes + layout.mirror.at, 0, (size_t)layout.mirror.bytes);
    memset(m->bytes + HEADER_BYTES, 0, (size_t)layout.header.bytes - HEADER_BYTES);
    store_be64(m->bytes + HEADER_AUTOCLEAR, 0);
    layout_count(m->bytes, m->size);
}

static void save(const char *directory, const char *name, struct input *input)
{
    static uint8_t bytes[INPUT_BYTES_MAX];
    char path[4096];
    size_t n = input->memory.size <= INPUT_FILE_MAX ? input_encode(input, bytes, sizeof bytes) : 0;

    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = n > 0 ? fopen(path, "wb") : NULL;
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0) {
        (void)fprintf(stderr, "fuzz_seeds: cannot write %s\n", path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        (void)fprintf(stderr, "usage: fuzz_seeds DIRECTORY [CLUSTER_BITS]\n");
        return 2;
    }
    const uint32_t most =
        argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : CONTAINER_CLUSTER_BITS_MAX;
    for (uint32_t bits = CONTAINER_CLUSTER_BITS_MIN; bits <= most; bits++) {
        for (uint32_t order = 0; order <= HEADER_REFCOUNT_ORDER_MAX + 1; order++) {
            struct container_create_options options = {.cluster_bits = bits};
            struct input input = {.script_bytes = sizeof scripts[0]};
            struct error error;
            char name[32];
            bool foreign = order > HEADER_REFCOUNT_ORDER_MAX;

            memory_open(&input.memory, 0);
            memcpy(input.script, scripts[(bits + order) % 3], sizeof scripts[0]);
            must(container_format(&input.memory.file, &options, &error), &error);
            if (!foreign) {
                set_refcount_order(&input.memory, order);
            }
            fill(&input.memory.file, bits);
            if (foreign) {
                make_foreign(&input.memory);
            }
            (void)snprintf(name, sizeof name, "seed-%02u-%s%u", (unsigned)bits,
                           foreign ? "foreign" : "", foreign ? 0 : 1u << order);
            save(argv[1], name, &input);
            memory_release(&input.memory);
        }
    }
    return 0;
}
