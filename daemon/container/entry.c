/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One bitmap as the bitmap table describes it, and the directory of all of
 * them.
 *
 * An entry is never changed once it belongs to a commit, but for its damage:
 * a transaction works on copies.  Hence a directory is built anew for each
 * commit, before the point of no return, and then swapped in, which cannot
 * fail.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

static char damage_without_memory[] = "damaged (no memory for the reason)";

void entry_trust(struct entry *entry)
{
    if (entry->damage != damage_without_memory) {
        free(entry->damage);
    }
    entry->damage = NULL;
    entry->unreadable = false;
}

void entry_free(struct entry *entry)
{
    if (!entry) {
        return;
    }
    entry_trust(entry);
    free(entry->name);
    free(entry->slots);
    runs_deinit(&entry->claims);
    free(entry);
}

void entry_damage(struct entry *entry, const char *format, ...)
{
    if (entry->damage) {
        return;
    }
    va_list args;
    va_start(args, format);
    if (vasprintf(&entry->damage, format, args) < 0) {
        entry->damage = damage_without_memory;
    }
    va_end(args);
}

bool entry_name_valid(const struct entry *entry)
{
    return entry->name_bytes > 0 && entry->name_bytes <= CONTAINER_NAME_BYTES_MAX &&
           !memchr(entry->name, '\0', entry->name_bytes);
}

bool entry_geometry(uint64_t sectors, uint32_t granularity, uint32_t cluster_bits,
                    uint64_t *ret_l1_entries, struct error *error)
{
    uint64_t bytes;

    if (!is_power_of_two(granularity) || granularity < CONTAINER_GRANULARITY_MIN) {
        (void)error_set(error, -EINVAL,
                        "granularity: found %" PRIu32 ", expected a power of two from 512 to 2 GiB",
                        granularity);
        return false;
    }
    uint64_t sectors_per_granule = granularity / SECTOR_BYTES;
    bytes = div_round_up(div_round_up(sectors, sectors_per_granule), 8);
    if (bytes > CONTAINER_BITMAP_BYTES_MAX) {
        (void)error_set(error, -EINVAL,
                        "size: found %" PRIu64 " sectors, which take %" PRIu64
                        " bytes of bits, expected at most %" PRIu64,
                        sectors, bytes, CONTAINER_BITMAP_BYTES_MAX);
        return false;
    }
    *ret_l1_entries = clusters_for(bytes, cluster_bits);
    return true;
}

uint64_t entry_bits_in_cluster(const struct entry *entry, uint32_t cluster_bits, uint32_t l1_index)
{
    uint64_t granules = div_round_up(entry->sectors, entry->granularity / SECTOR_BYTES);
    uint64_t per_cluster = UINT64_C(8) << cluster_bits;
    uint64_t before = (uint64_t)l1_index * per_cluster;

    return before >= granules ? 0 : min_u64(granules - before, per_cluster);
}

bool bits_clear_from(const uint8_t *bits, size_t bytes, uint64_t from)
{
    size_t at = (size_t)(from / 8);

    if (at < bytes && from % 8 != 0) {
        if (bits[at] >> (from % 8)) {
            return false;
        }
        at++;
    }
    if (at >= bytes) {
        return true;
    }
    /* All equal to the first, and that is 0. */
    return bits[at] == 0 && memcmp(bits + at, bits + at + 1, bytes - at - 1) == 0;
}

uint64_t hash_id(uint64_t id)
{
    /* The finisher of splitmix64. */
    id = (id ^ (id >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    id = (id ^ (id >> 27)) * UINT64_C(0x94d049bb133111eb);
    return id ^ (id >> 31);
}

uint64_t hash_name(const char *name, size_t name_bytes)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (size_t i = 0; i < name_bytes; i++) {
        hash = (hash ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
    }
    return hash_id(hash);
}

static bool same_name(const struct entry *entry, const char *name, size_t name_bytes)
{
    return entry->name_bytes == name_bytes && memcmp(entry->name, name, name_bytes) == 0;
}

struct entry *directory_find_id(const struct directory *directory, uint64_t id)
{
    if (id == 0 || !directory->by_id) {
        return NULL;
    }
    for (uint64_t slot = hash_id(id);; slot++) {
        uint32_t value = directory->by_id[slot & directory->mask];
        if (value == 0) {
            return NULL;
        }
        if (directory->entries[value - 1]->id == id) {
            return directory->entries[value - 1];
        }
    }
}

struct entry *directory_find_name(const struct directory *directory, const char *name,
                                  size_t name_bytes)
{
    if (!directory->by_name) {
        return NULL;
    }
    for (uint64_t slot = hash_name(name, name_bytes);; slot++) {
        uint32_t value = directory->by_name[slot & directory->mask];
        if (value == 0) {
            return NULL;
        }
        if (same_name(directory->entries[value - 1], name, name_bytes)) {
            return directory->entries[value - 1];
        }
    }
}

static void directory_insert(uint32_t *slots, uint32_t mask, uint64_t hash, uint32_t index)
{
    while (slots[hash & mask] != 0) {
        hash++;
    }
    slots[hash & mask] = index + 1;
}

int directory_init(struct directory *directory, struct entry **entries, uint32_t n)
{
    struct directory d = {.n = n};
    uint32_t slots = 8;

    while (slots / 2 < n) {
        slots *= 2;
    }
    d.mask = slots - 1;
    d.by_id = calloc(slots, sizeof *d.by_id);
    d.by_name = calloc(slots, sizeof *d.by_name);
    if (!d.by_id || !d.by_name) {
        directory_deinit(&d);
        return -ENOMEM;
    }
    d.entries = entries;
    for (uint32_t i = 0; i < n; i++) {
        const struct entry *e = entries[i];
        if (e->id != 0) {
            if (directory_find_id(&d, e->id)) {
                d.entries = NULL;
                directory_deinit(&d);
                return -EEXIST;
            }
            directory_insert(d.by_id, d.mask, hash_id(e->id), i);
        }
        /* Of equal names, which only a foreign tool can have made, the first is found. */
        if (!directory_find_name(&d, e->name, e->name_bytes)) {
            directory_insert(d.by_name, d.mask, hash_name(e->name, e->name_bytes), i);
        }
    }
    *directory = d;
    return 0;
}

void directory_deinit(struct directory *directory)
{
    free(directory->entries);
    free(directory->by_id);
    free(directory->by_name);
    *directory = (struct directory){0};
}

static uint64_t table_entry_bytes(const struct entry *entry)
{
    return ((uint64_t)TABLE_NAME + entry->name_bytes + TABLE_ENTRY_ALIGN - 1) &
           ~(uint64_t)(TABLE_ENTRY_ALIGN - 1);
}

uint64_t table_bytes(struct entry *const *entries, uint32_t n)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        bytes += table_entry_bytes(entries[i]);
    }
    return bytes;
}

void table_build(struct entry *const *entries, uint32_t n, uint8_t *buffer)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct entry *e = entries[i];
        uint64_t bytes = table_entry_bytes(e);
        memset(buffer, 0, bytes);
        store_be64(buffer + TABLE_L1_OFFSET, e->l1_offset);
        store_be32(buffer + TABLE_L1_ENTRIES, e->l1_entries);
        store_be32(buffer + TABLE_GRANULARITY, e->granularity);
        store_be64(buffer + TABLE_SECTORS, e->sectors);
        store_be16(buffer + TABLE_NAME_LENGTH, (uint16_t)e->name_bytes);
        memcpy(buffer + TABLE_NAME, e->name, e->name_bytes);
        buffer += bytes;
    }
}
