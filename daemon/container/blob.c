/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state blob: what the draft has no field for (format.h).
 *
 * Nothing in it is looked at before length, CRC, container UUID and commit id
 * agree with the extension: a blob that is whole but of another commit is as
 * bad as none.
 */
#include "daemon/container/internal.h"

static uint32_t blob_crc(const uint8_t *bytes, size_t length)
{
    const uint8_t zero[4] = {0};
    uint32_t crc = crc32c(0, bytes, STATE_CRC);

    crc = crc32c(crc, zero, sizeof zero);
    return crc32c(crc, bytes + STATE_CRC + 4, length - STATE_CRC - 4);
}

void blob_deinit(struct blob *blob)
{
    free(blob->bytes);
    *blob = (struct blob){0};
}

int blob_parse(uint8_t *bytes, size_t length, const struct private_extension *private,
               struct blob *ret, struct error *error)
{
    struct blob blob = {.bytes = bytes, .length = length};
    uint64_t offset = private->state_offset;

    if (length < STATE_HEADER_BYTES) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ": found %zu bytes, expected at least %u",
                         offset, length, STATE_HEADER_BYTES);
    }
    if (memcmp(bytes + STATE_MAGIC, STATE_MAGIC_VALUE, 8) != 0) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ", magic: expected \"%s\"", offset,
                         STATE_MAGIC_VALUE);
    }
    uint32_t found = load_le32(bytes + STATE_CRC), expected = blob_crc(bytes, length);
    if (found != expected) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ", CRC32C: found 0x%08" PRIx32
                         ", expected 0x%08" PRIx32,
                         offset, found, expected);
    }
    if (load_le32(bytes + STATE_VERSION) != STATE_VERSION_VALUE) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ", version: found %" PRIu32
                         ", expected %u",
                         offset, load_le32(bytes + STATE_VERSION), STATE_VERSION_VALUE);
    }
    if (load_le64(bytes + STATE_LENGTH) != length) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ", length: found %" PRIu64
                         ", expected %zu",
                         offset, load_le64(bytes + STATE_LENGTH), length);
    }
    if (memcmp(bytes + STATE_UUID, &private->uuid, 16) != 0 ||
        memcmp(bytes + STATE_COMMIT_ID, &private->commit_id, 16) != 0) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ": it belongs to another commit", offset);
    }
    uint64_t payload = load_le64(bytes + STATE_PAYLOAD_LENGTH);
    if (payload > length - STATE_HEADER_BYTES || payload > CONTAINER_STATE_BYTES_MAX) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ", payload length: found %" PRIu64
                         ", expected at most %" PRIu64,
                         offset, payload,
                         min_u64(length - STATE_HEADER_BYTES, CONTAINER_STATE_BYTES_MAX));
    }
    blob.payload_offset = length - (size_t)payload;
    blob.table_bytes = load_le64(bytes + STATE_TABLE_LENGTH);
    blob.table_entries = load_le32(bytes + STATE_TABLE_ENTRIES);
    blob.table_crc = load_le32(bytes + STATE_TABLE_CRC);

    /* The entries must fill the space up to the payload exactly. */
    size_t at = STATE_HEADER_BYTES;
    for (uint32_t i = 0; i < blob.table_entries; i++) {
        uint64_t left = blob.payload_offset - at;
        if (left < STATE_ENTRY_BYTES ||
            load_le32(bytes + at + STATE_ENTRY_CRCS) > (left - STATE_ENTRY_BYTES) / 4) {
            return error_set(error, -EBADMSG,
                             "state blob at offset %" PRIu64 ", entry %" PRIu32
                             ": found no room for it before the payload",
                             offset, i);
        }
        at += STATE_ENTRY_BYTES + (size_t)load_le32(bytes + at + STATE_ENTRY_CRCS) * 4;
    }
    if (at != blob.payload_offset) {
        return error_set(error, -EBADMSG,
                         "state blob at offset %" PRIu64 ": found the payload at %zu, expected %zu",
                         offset, blob.payload_offset, at);
    }
    *ret = blob;
    return 0;
}

void blob_next(const struct blob *blob, size_t *position, struct blob_entry *ret)
{
    size_t at = *position ? *position : STATE_HEADER_BYTES;
    const uint8_t *p = blob->bytes + at;

    ret->id = load_le64(p + STATE_ENTRY_ID);
    ret->flags = load_le32(p + STATE_ENTRY_FLAGS);
    ret->l1_crc = load_le32(p + STATE_ENTRY_L1_CRC);
    ret->n_crcs = load_le32(p + STATE_ENTRY_CRCS);
    ret->crcs = p + STATE_ENTRY_BYTES;
    *position = at + STATE_ENTRY_BYTES + (size_t)ret->n_crcs * 4;
}

/* Without has_crcs nobody has ever vouched for the clusters, and we do not begin to. */
static uint32_t crcs_of(const struct entry *entry)
{
    return entry->has_crcs ? entry->data : 0;
}

uint64_t blob_bytes(struct entry *const *entries, uint32_t n, size_t payload_bytes)
{
    uint64_t bytes = STATE_HEADER_BYTES + (uint64_t)payload_bytes;

    for (uint32_t i = 0; i < n; i++) {
        bytes += STATE_ENTRY_BYTES + (uint64_t)crcs_of(entries[i]) * 4;
    }
    return bytes;
}

int blob_build(struct entry *const *entries, uint32_t n, const struct private_extension *private,
               uint64_t table_length, uint32_t table_crc, const void *payload, size_t payload_bytes,
               uint64_t room, struct blob *ret)
{
    size_t length = (size_t)blob_bytes(entries, n, payload_bytes);
    uint8_t *bytes = calloc(1, (size_t)room);
    uint8_t *p;

    if (!bytes) {
        return -ENOMEM;
    }
    p = bytes + STATE_HEADER_BYTES;
    memcpy(bytes + STATE_MAGIC, STATE_MAGIC_VALUE, 8);
    store_le32(bytes + STATE_VERSION, STATE_VERSION_VALUE);
    store_le64(bytes + STATE_LENGTH, length);
    memcpy(bytes + STATE_UUID, &private->uuid, 16);
    memcpy(bytes + STATE_COMMIT_ID, &private->commit_id, 16);
    store_le64(bytes + STATE_PAYLOAD_LENGTH, payload_bytes);
    store_le64(bytes + STATE_TABLE_LENGTH, table_length);
    store_le32(bytes + STATE_TABLE_ENTRIES, n);
    store_le32(bytes + STATE_TABLE_CRC, table_crc);
    for (uint32_t i = 0; i < n; i++) {
        const struct entry *e = entries[i];
        uint32_t crcs = crcs_of(e);
        store_le64(p + STATE_ENTRY_ID, e->id);
        store_le32(p + STATE_ENTRY_FLAGS, e->damage ? STATE_ENTRY_LOST : 0);
        store_le32(p + STATE_ENTRY_L1_CRC, e->l1_crc);
        store_le32(p + STATE_ENTRY_CRCS, crcs);
        p += STATE_ENTRY_BYTES;
        for (uint32_t l1 = 0; crcs > 0; l1++) {
            const struct slot *slot = &e->slots[l1];
            if ((slot->where & SLOT_CLUSTER) && !(slot->where & SLOT_ZERO)) {
                store_le32(p, slot->crc);
                p += 4;
                crcs--;
            }
        }
    }
    if (payload_bytes > 0) {
        memcpy(p, payload, payload_bytes);
    }
    store_le32(bytes + STATE_CRC, blob_crc(bytes, length));

    *ret = (struct blob){
        .bytes = bytes,
        .length = length,
        .payload_offset = length - payload_bytes,
        .table_bytes = table_length,
        .table_entries = n,
        .table_crc = table_crc,
    };
    return 0;
}
