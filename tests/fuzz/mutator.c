/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How inputs are changed: one structure at a time, with values that are likely
 * to hurt, and mostly with all checksums made right again, since a fuzzer that
 * only learns that CRC32C works has learnt nothing.
 *
 * Every mutation is a function of the input and the seed.
 */
#include "tests/common/layout.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/target.h"

#include "daemon/container/format.h"
#include "proto/base/endian.h"

#include <stdlib.h>
#include <string.h>

#define FILE_MIN 128u /* shorter ones are refused, and that is all there is to them */

struct mutation {
    struct input input;
    struct layout layout;
    uint64_t random;
};

/* splitmix64; below @n. */
static uint64_t below(struct mutation *m, uint64_t n)
{
    uint64_t z = (m->random += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

/* ---- fields ---- */

struct field {
    uint16_t at;
    uint8_t bytes;
};

static const struct field header_fields[] = {
    {HEADER_BACKING_OFFSET, 8}, {HEADER_CLUSTER_BITS, 4},
    {HEADER_VIRTUAL_SIZE, 8},   {HEADER_CRYPT_METHOD, 4},
    {HEADER_L1_ENTRIES, 4},     {HEADER_REFCOUNT_TABLE_OFFSET, 8},
    {HEADER_SNAPSHOTS, 4},      {HEADER_REFCOUNT_TABLE_CLUSTERS, 4},
    {HEADER_INCOMPATIBLE, 8},   {HEADER_AUTOCLEAR, 8},
    {HEADER_REFCOUNT_ORDER, 4}, {HEADER_LENGTH, 4},
    {HEADER_BITMAPS, 4},        {HEADER_BITMAPS_OFFSET, 8},
    {HEADER_BYTES, 4},          {HEADER_BYTES + 4, 4},
};

static const struct field private_fields[] = {
    {PRIVATE_STATE_OFFSET, 8}, {PRIVATE_STATE_LENGTH, 8}, {PRIVATE_MIRROR_OFFSET, 8},
    {PRIVATE_VERSION, 4},      {PRIVATE_APPLIED_SEQ, 8},  {PRIVATE_CLEAN, 4},
    {PRIVATE_FIELDS, 4},       {PRIVATE_FIELDS + 4, 8},
};

static const struct field entry_fields[] = {
    {TABLE_L1_OFFSET, 8}, {TABLE_L1_ENTRIES, 4},  {TABLE_GRANULARITY, 4},
    {TABLE_SECTORS, 8},   {TABLE_NAME_LENGTH, 2}, {TABLE_NAME, 1},
};

static const struct field state_fields[] = {
    {STATE_VERSION, 4},      {STATE_LENGTH, 8},        {STATE_PAYLOAD_LENGTH, 8},
    {STATE_TABLE_LENGTH, 8}, {STATE_TABLE_ENTRIES, 4},
};

static const struct field state_entry_fields[] = {
    {STATE_ENTRY_ID, 8},
    {STATE_ENTRY_FLAGS, 4},
    {STATE_ENTRY_CRCS, 4},
    {STATE_ENTRY_BYTES, 4},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static uint64_t load(const uint8_t *p, unsigned bytes, bool little)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)p[i] << 8 * (little ? i : bytes - 1 - i);
    }
    return value;
}

static void store(uint8_t *p, uint64_t value, unsigned bytes, bool little)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(value >> 8 * (little ? i : bytes - 1 - i));
    }
}

/* Where some structure begins, or some cluster. */
static uint64_t some_offset(struct mutation *m)
{
    uint32_t bits = m->layout.cluster_bits;
    const uint64_t places[] = {
        0,
        m->layout.refcount_table.at,
        m->layout.mirror.at,
        m->layout.state.at,
        m->layout.table.at,
        (m->input.memory.size >> bits) << bits,
        below(m, (m->input.memory.size >> bits) + 1) << bits,
        below(m, (m->input.memory.size >> bits) + 1) << bits,
    };
    return places[below(m, COUNT(places))];
}

static uint64_t some_value(struct mutation *m, uint64_t old)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     7,
                                     8,
                                     9,
                                     64,
                                     512,
                                     513,
                                     65535,
                                     65536,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     UINT64_C(1) << 55,
                                     UINT64_C(1) << 63,
                                     UINT64_MAX,
                                     UINT64_MAX - 511};

    switch (below(m, 8)) {
    case 0:
        return edges[below(m, COUNT(edges))];
    case 1:
        return old + 1;
    case 2:
        return old - 1;
    case 3:
        return old ^ UINT64_C(1) << below(m, 64);
    case 4:
        return below(m, 32);
    case 5:
        return m->input.memory.size + below(m, 3) - 1;
    case 6:
        return old + (UINT64_C(1) << m->layout.cluster_bits);
    default:
        return some_offset(m);
    }
}

static void change_number(struct mutation *m, uint64_t at, unsigned bytes, bool little)
{
    uint8_t *p = m->input.memory.bytes + at;

    if (at < m->input.memory.size && m->input.memory.size - at >= bytes) {
        store(p, some_value(m, load(p, bytes, little)), bytes, little);
    }
}

static void change_field(struct mutation *m, uint64_t base, const struct field *fields, size_t n,
                         bool little)
{
    const struct field *f = &fields[below(m, n)];

    change_number(m, base + f->at, f->bytes, little);
}

/* ---- structures ---- */

/* One of the bitmaps; false when there are none. */
static bool some_entry(struct mutation *m, struct layout_entry *ret)
{
    *ret = (struct layout_entry){0};
    if (m->layout.entries == 0) {
        return false;
    }
    for (uint64_t i = below(m, m->layout.entries < 64 ? m->layout.entries : 64) + 1; i > 0; i--) {
        if (!layout_next(m->input.memory.bytes, m->input.memory.size, &m->layout, ret)) {
            return false;
        }
    }
    return true;
}

static void change_bitmap(struct mutation *m)
{
    struct layout_entry e;

    if (!some_entry(m, &e)) {
        return;
    }
    switch (below(m, 4)) {
    case 0:
        change_field(m, e.entry.at, entry_fields, COUNT(entry_fields), false);
        break;
    case 1:
        if (e.state.bytes > 0) {
            change_field(m, e.state.at, state_entry_fields, COUNT(state_entry_fields), true);
        }
        break;
    default:
        if (e.l1.bytes > 0) {
            uint64_t at = e.l1.at + below(m, e.l1.bytes / L1_ENTRY_BYTES) * L1_ENTRY_BYTES;
            change_number(m, at, L1_ENTRY_BYTES, false);
        }
    }
}

static void change_refcounts(struct mutation *m)
{
    const struct place *table = &m->layout.refcount_table;
    uint64_t entries = table->bytes / REFCOUNT_TABLE_ENTRY_BYTES;

    if (entries == 0) {
        return;
    }
    uint64_t at = table->at + below(m, entries < 8 ? entries : 8) * REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t block = load_be64(m->input.memory.bytes + at);
    if (below(m, 2) || block == 0 || block >= m->input.memory.size) {
        change_number(m, at, REFCOUNT_TABLE_ENTRY_BYTES, false);
    } else {
        change_number(m, block + below(m, 64), 1u << below(m, 4), false);
    }
}

/* libFuzzer's own mutations, on a stretch that keeps its length. */
static void change_stretch(struct mutation *m, uint64_t at, uint64_t bytes)
{
    uint8_t copy[256];

    if (at >= m->input.memory.size) {
        return;
    }
    uint64_t left = m->input.memory.size - at;
    bytes = bytes < left ? bytes : left;
    bytes = bytes < sizeof copy ? bytes : sizeof copy;
    if (bytes > 0) {
        memcpy(copy, m->input.memory.bytes + at, bytes);
        size_t n = LLVMFuzzerMutate(copy, (size_t)bytes, (size_t)bytes);
        memcpy(m->input.memory.bytes + at, copy, n);
    }
}

static void copy_cluster(struct mutation *m)
{
    uint64_t size = m->input.memory.size;
    uint64_t bytes = below(m, 2) ? 512 : UINT64_C(1) << m->layout.cluster_bits;
    uint64_t from = some_offset(m), to = some_offset(m);

    if (from < size && to < size && size - from >= bytes && size - to >= bytes) {
        memmove(m->input.memory.bytes + to, m->input.memory.bytes + from, (size_t)bytes);
    }
}

static void resize_file(struct mutation *m)
{
    struct memory *memory = &m->input.memory;
    uint64_t cluster = UINT64_C(1) << m->layout.cluster_bits;
    uint64_t size = memory->size;

    switch (below(m, 4)) {
    case 0:
        size += cluster * (1 + below(m, 8));
        break;
    case 1:
        size -= size < cluster ? size : cluster;
        break;
    case 2:
        size = below(m, size + 1);
        break;
    default:
        size += 1 + below(m, 511);
    }
    if (size <= INPUT_FILE_MAX) {
        if (size < memory->size) {
            memset(memory->bytes + size, 0, memory->size - size);
        }
        memory->size = size;
    }
}

static void change_script(struct mutation *m)
{
    if (m->input.script_bytes == 0) {
        m->input.script_bytes = 4;
    }
    m->input.script_bytes =
        (uint32_t)LLVMFuzzerMutate(m->input.script, m->input.script_bytes, INPUT_SCRIPT_MAX);
}

static void change_something(struct mutation *m)
{
    layout_find(m->input.memory.bytes, m->input.memory.size, &m->layout);
    switch (below(m, 16)) {
    case 0:
        change_field(m, 0, header_fields, COUNT(header_fields), false);
        break;
    case 1:
        change_field(m, m->layout.private_data, private_fields, COUNT(private_fields), false);
        break;
    case 2:
        if (m->layout.state.bytes > 0) {
            change_field(m, m->layout.state.at, state_fields, COUNT(state_fields), true);
        }
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        change_bitmap(m);
        break;
    case 7:
        change_refcounts(m);
        break;
    case 8:
        copy_cluster(m);
        break;
    case 9:
        resize_file(m);
        break;
    case 10:
        change_stretch(m, below(m, m->input.memory.size), 64);
        break;
    case 11:
        change_stretch(m, some_offset(m), 256);
        break;
    default:
        change_script(m);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    struct mutation m = {.random = seed};

    input_decode(data, size, &m.input);
    struct memory *memory = &m.input.memory;
    for (uint64_t i = 1 + below(&m, 4); i > 0; i--) {
        if (memory->size < FILE_MIN) {
            memory->size = FILE_MIN;
        }
        change_something(&m);
    }
    if (memory->size < FILE_MIN) {
        memory->size = FILE_MIN;
    }
    if (below(&m, 2)) {
        layout_count(memory->bytes, memory->size);
    }
    if (below(&m, 4)) {
        layout_seal_bits(memory->bytes, memory->size);
    }
    if (below(&m, 16)) {
        layout_seal(memory->bytes, memory->size);
    }
    size_t bytes = input_encode(&m.input, data, max_size);
    memory_release(memory);
    if (bytes == 0) {
        /* Too large now; the input as it was is as good as any. */
        bytes = size < max_size ? size : max_size;
    }
    return bytes;
}
