/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header block: qcow2 header and header extensions, to and from bytes.
 *
 * What we do not understand is carried along: fields past the draft's, and
 * foreign extensions in their order.  Ours goes first, so that header, draft
 * fields and extension fit the one sector that any disk writes whole.
 *
 * Invariant: header_build() of what header_read() gave differs from the bytes
 * read only in what the caller changed, the position of our extension, and
 * autoclear bits that qcow2 tells us to clear.
 */
#include "daemon/container/internal.h"

#define BLOCK_READ_BYTES 512u

static int header_bad(struct error *error, uint64_t offset, const char *field, unsigned at,
                      uint64_t found, const char *expected)
{
    return error_set(error, -EBADMSG,
                     "header at offset %" PRIu64 ", %s (byte %u): found %" PRIu64 ", expected %s",
                     offset, field, at, found, expected);
}

/* Fixed fields.  @bytes holds at least HEADER_BYTES_MIN. */
static int header_parse_fixed(const uint8_t *bytes, uint64_t offset, struct header *h,
                              struct error *error)
{
    uint32_t magic = load_be32(bytes + HEADER_MAGIC);
    uint32_t version = load_be32(bytes + HEADER_VERSION);

    if (magic != HEADER_MAGIC_VALUE) {
        return error_set(error, -EBADMSG,
                         "header at offset %" PRIu64 ", magic (byte 0): found 0x%08" PRIx32
                         ", expected 0x%08x: not a qcow2 file",
                         offset, magic, HEADER_MAGIC_VALUE);
    }
    if (version != HEADER_VERSION_VALUE) {
        return header_bad(error, offset, "version", HEADER_VERSION, version,
                          version == 2 ? "3; 'qemu-img amend -o compat=1.1 FILE' makes it 3" : "3");
    }
    h->cluster_bits = load_be32(bytes + HEADER_CLUSTER_BITS);
    if (h->cluster_bits < CONTAINER_CLUSTER_BITS_MIN ||
        h->cluster_bits > CONTAINER_CLUSTER_BITS_MAX) {
        return header_bad(error, offset, "cluster_bits", HEADER_CLUSTER_BITS, h->cluster_bits,
                          "9 to 21");
    }
    h->incompatible = load_be64(bytes + HEADER_INCOMPATIBLE);
    if (h->incompatible & ~INCOMPATIBLE_KNOWN) {
        return error_set(error, -EBADMSG,
                         "header at offset %" PRIu64 ", incompatible features (byte %u): found "
                         "0x%" PRIx64 ", expected no bit outside 0x%" PRIx64,
                         offset, HEADER_INCOMPATIBLE, h->incompatible, INCOMPATIBLE_KNOWN);
    }
    if (h->incompatible & INCOMPATIBLE_COMPRESSION) {
        return error_set(error, -EBADMSG,
                         "header at offset %" PRIu64 ", incompatible features (byte %u): found bit "
                         "3 (compression type), expected it clear: byte 104 cannot be both "
                         "compression_type and nb_dirty_bitmaps; 'qemu-img convert -O qcow2 "
                         "-o compression_type=zlib' makes a copy without it",
                         offset, HEADER_INCOMPATIBLE);
    }
    h->length = load_be32(bytes + HEADER_LENGTH);
    if (h->length < HEADER_BYTES_QCOW2 || h->length > UINT32_C(1) << h->cluster_bits) {
        return header_bad(error, offset, "header_length", HEADER_LENGTH, h->length,
                          "104 to the cluster size");
    }
    h->refcount_order = load_be32(bytes + HEADER_REFCOUNT_ORDER);
    if (h->refcount_order > HEADER_REFCOUNT_ORDER_MAX) {
        return header_bad(error, offset, "refcount_order", HEADER_REFCOUNT_ORDER, h->refcount_order,
                          "0 to 6");
    }
    h->backing_offset = load_be64(bytes + HEADER_BACKING_OFFSET);
    h->backing_bytes = load_be32(bytes + HEADER_BACKING_LENGTH);
    h->virtual_size = load_be64(bytes + HEADER_VIRTUAL_SIZE);
    h->crypt_method = load_be32(bytes + HEADER_CRYPT_METHOD);
    h->l1_entries = load_be32(bytes + HEADER_L1_ENTRIES);
    h->l1_offset = load_be64(bytes + HEADER_L1_OFFSET);
    h->refcount_table_offset = load_be64(bytes + HEADER_REFCOUNT_TABLE_OFFSET);
    h->refcount_table_clusters = load_be32(bytes + HEADER_REFCOUNT_TABLE_CLUSTERS);
    h->snapshots = load_be32(bytes + HEADER_SNAPSHOTS);
    h->snapshots_offset = load_be64(bytes + HEADER_SNAPSHOTS_OFFSET);
    h->autoclear = load_be64(bytes + HEADER_AUTOCLEAR);
    if (h->length >= HEADER_BYTES_MIN) {
        h->bitmaps = load_be32(bytes + HEADER_BITMAPS);
        h->table_offset = load_be64(bytes + HEADER_BITMAPS_OFFSET);
    }
    return 0;
}

static void load_uuid(const uint8_t *bytes, struct uuid *ret)
{
    memcpy(ret->bytes, bytes, sizeof ret->bytes);
}

static uint32_t private_crc(const uint8_t *data)
{
    uint8_t copy[PRIVATE_BYTES];

    memcpy(copy, data, sizeof copy);
    store_be32(copy + PRIVATE_HEADER_CRC, 0);
    store_be32(copy + PRIVATE_CRC, 0);
    return crc32c(0, copy, sizeof copy);
}

/* Of a whole block in which our extension's data stand at @data. */
static uint32_t block_crc(const uint8_t *block, size_t block_bytes, size_t data)
{
    const uint8_t zero[4] = {0};
    size_t field = data + PRIVATE_HEADER_CRC;
    uint32_t crc = crc32c(0, block, field);

    crc = crc32c(crc, zero, sizeof zero);
    return crc32c(crc, block + field + 4, block_bytes - field - 4);
}

static int private_parse(const uint8_t *data, uint64_t length, uint64_t offset, struct header *h,
                         struct error *error)
{
    struct private_extension *p = &h->private;

    if (h->has_private) {
        return error_set(error, -EBADMSG,
                         "header extension 0x%08x at offset %" PRIu64 ": found a second one, "
                         "expected one",
                         EXTENSION_PRIVATE, offset);
    }
    if (length != PRIVATE_BYTES) {
        return error_set(error, -EBADMSG,
                         "header extension 0x%08x at offset %" PRIu64 ": found length %" PRIu64
                         ", expected %u",
                         EXTENSION_PRIVATE, offset, length, PRIVATE_BYTES);
    }
    h->has_private = true;
    h->private_crc_good = load_be32(data + PRIVATE_CRC) == private_crc(data);
    p->state_offset = load_be64(data + PRIVATE_STATE_OFFSET);
    p->state_bytes = load_be64(data + PRIVATE_STATE_LENGTH);
    p->mirror_offset = load_be64(data + PRIVATE_MIRROR_OFFSET);
    load_uuid(data + PRIVATE_UUID, &p->uuid);
    load_uuid(data + PRIVATE_COMMIT_ID, &p->commit_id);
    p->applied_seq = load_be64(data + PRIVATE_APPLIED_SEQ);
    /* Anything but a plain 1 is no promise. */
    p->clean = load_be32(data + PRIVATE_CLEAN) == 1;
    load_uuid(data + PRIVATE_BOOT_ID, &p->boot_id);
    p->identity.inode = load_be64(data + PRIVATE_INODE);
    p->identity.birth_time_ns = load_be64(data + PRIVATE_BIRTH_TIME);
    p->bitmaps = load_be32(data + PRIVATE_FIELDS);
    p->table_offset = load_be64(data + PRIVATE_FIELDS + 4);
    p->flags = load_be32(data + PRIVATE_FLAGS);

    uint32_t version = load_be32(data + PRIVATE_VERSION);
    if (h->private_crc_good && version != PRIVATE_VERSION_VALUE) {
        return error_set(error, -EBADMSG,
                         "header extension 0x%08x at offset %" PRIu64 ", version (byte %u): found "
                         "%" PRIu32 ", expected %u",
                         EXTENSION_PRIVATE, offset, PRIVATE_VERSION, version,
                         PRIVATE_VERSION_VALUE);
    }
    return 0;
}

static int foreign_push(struct header *h, uint32_t type, const uint8_t *data, uint32_t length)
{
    CLEANUP_FREE uint8_t *copy = malloc(length ? length : 1);

    if (h->n_foreign == h->foreign_capacity) {
        size_t capacity = h->foreign_capacity ? 2 * h->foreign_capacity : 8;
        struct extension *grown = reallocarray(h->foreign, capacity, sizeof *grown);

        if (!grown) {
            return -ENOMEM;
        }
        h->foreign = grown;
        h->foreign_capacity = capacity;
    }
    if (!copy) {
        return -ENOMEM;
    }
    memcpy(copy, data, length);
    h->foreign[h->n_foreign++] =
        (struct extension){.type = type, .length = length, .data = STEAL(copy)};
    return 0;
}

/* Extensions from @h->length up to @limit, which cluster 0, the backing file name or the file ends.
 * Stores where the block ends. */
static int header_parse_extensions(const uint8_t *bytes, size_t limit, uint64_t offset,
                                   struct header *h, size_t *ret_end, size_t *ret_private,
                                   struct error *error)
{
    size_t at = h->length;

    for (;;) {
        if (at == limit && h->backing_offset != 0) {
            break; /* the name follows at once */
        }
        if (at > limit || limit - at < EXTENSION_HEADER_BYTES) {
            return error_set(error, -EBADMSG,
                             "header extensions: found none that ends them before offset %" PRIu64
                             ", expected type 0",
                             offset + limit);
        }
        uint32_t type = load_be32(bytes + at);
        uint32_t length = load_be32(bytes + at + 4);
        size_t data = at + EXTENSION_HEADER_BYTES;
        if (type == EXTENSION_END) {
            at = data;
            break;
        }
        uint64_t padded = ((uint64_t)length + 7) & ~UINT64_C(7);
        if (padded > limit - data) {
            return error_set(error, -EBADMSG,
                             "header extension 0x%08" PRIx32 " at offset %" PRIu64
                             ": found length %" PRIu32 ", expected at most %zu",
                             type, offset + at, length, limit - data);
        }
        int r;
        if (type == EXTENSION_PRIVATE) {
            r = private_parse(bytes + data, length, offset + at, h, error);
            *ret_private = data;
        } else {
            r = foreign_push(h, type, bytes + data, length);
            if (r < 0) {
                (void)error_set_errno(error, r, "cannot read the header extensions");
            }
        }
        if (r < 0) {
            return r;
        }
        at = data + (size_t)padded;
    }
    *ret_end = at;
    return 0;
}

int header_read(struct file *file, uint64_t file_bytes, uint64_t offset, struct header *ret,
                struct error *error)
{
    CLEANUP(header_deinit) struct header h = {0};
    CLEANUP_FREE uint8_t *bytes = NULL;
    uint8_t first[HEADER_BYTES_MIN];
    size_t room, limit, end = 0, private_at = 0;
    int r;

    if (file_bytes < offset || file_bytes - offset < sizeof first) {
        return error_set(error, -EBADMSG,
                         "header at offset %" PRIu64 ": found %" PRIu64
                         " bytes of file, expected at least %zu",
                         offset, file_bytes < offset ? 0 : file_bytes - offset, sizeof first);
    }
    r = file_read(file, first, sizeof first, offset);
    if (r < 0) {
        return error_set_errno(error, r, "cannot read the header at offset %" PRIu64, offset);
    }
    r = header_parse_fixed(first, offset, &h, error);
    if (r < 0) {
        return r;
    }
    room = (size_t)min_u64(UINT64_C(1) << h.cluster_bits, file_bytes - offset);
    limit = room;
    if (h.backing_offset != 0 && h.backing_offset < limit) {
        limit = (size_t)h.backing_offset;
    }
    if (h.length > limit) {
        return header_bad(error, offset, "header_length", HEADER_LENGTH, h.length,
                          "no more than stands before the backing file name and the file's end");
    }
    if (h.backing_offset == 0) {
        h.backing_bytes = 0;
    }
    if (h.backing_bytes > 0 &&
        (h.backing_bytes > BACKING_BYTES_MAX || h.backing_bytes > room - limit)) {
        return header_bad(error, offset, "backing file name's length", HEADER_BACKING_LENGTH,
                          h.backing_bytes, "at most 1023, within cluster 0");
    }
    bytes = malloc(room);
    h.fixed = malloc(h.length);
    h.backing_name = malloc((size_t)h.backing_bytes + 1);
    if (!bytes || !h.fixed || !h.backing_name) {
        return error_set_errno(error, -ENOMEM, "cannot read the header");
    }
    r = file_read(file, bytes, room, offset);
    if (r < 0) {
        return error_set_errno(error, r, "cannot read the header at offset %" PRIu64, offset);
    }
    memcpy(h.fixed, bytes, h.length);
    r = header_parse_extensions(bytes, limit, offset, &h, &end, &private_at, error);
    if (r < 0) {
        return r;
    }
    if (h.backing_bytes > 0) {
        memcpy(h.backing_name, bytes + limit, h.backing_bytes);
        end = limit + h.backing_bytes;
    }
    if (h.has_private) {
        h.crc_good = h.private_crc_good && load_be32(bytes + private_at + PRIVATE_HEADER_CRC) ==
                                               block_crc(bytes, end, private_at);
        if (h.private_crc_good) {
            h.fields_restored =
                h.bitmaps != h.private.bitmaps || h.table_offset != h.private.table_offset;
            h.bitmaps = h.private.bitmaps;
            h.table_offset = h.private.table_offset;
        }
    }
    h.block = STEAL(bytes);
    h.block_bytes = end;

    *ret = h;
    h = (struct header){0};
    return 0;
}

static void store_extension(uint8_t *bytes, size_t *at, uint32_t type, const uint8_t *data,
                            uint32_t length)
{
    store_be32(bytes + *at, type);
    store_be32(bytes + *at + 4, length);
    memcpy(bytes + *at + EXTENSION_HEADER_BYTES, data, length);
    *at += EXTENSION_HEADER_BYTES + (((size_t)length + 7) & ~(size_t)7);
}

static void private_build(const struct header *h, uint8_t data[static PRIVATE_BYTES])
{
    const struct private_extension *p = &h->private;

    memset(data, 0, PRIVATE_BYTES);
    store_be64(data + PRIVATE_STATE_OFFSET, p->state_offset);
    store_be64(data + PRIVATE_STATE_LENGTH, p->state_bytes);
    store_be64(data + PRIVATE_MIRROR_OFFSET, p->mirror_offset);
    store_be32(data + PRIVATE_VERSION, PRIVATE_VERSION_VALUE);
    memcpy(data + PRIVATE_UUID, p->uuid.bytes, sizeof p->uuid.bytes);
    memcpy(data + PRIVATE_COMMIT_ID, p->commit_id.bytes, sizeof p->commit_id.bytes);
    store_be64(data + PRIVATE_APPLIED_SEQ, p->applied_seq);
    store_be32(data + PRIVATE_CLEAN, p->clean);
    memcpy(data + PRIVATE_BOOT_ID, p->boot_id.bytes, sizeof p->boot_id.bytes);
    store_be64(data + PRIVATE_INODE, p->identity.inode);
    store_be64(data + PRIVATE_BIRTH_TIME, p->identity.birth_time_ns);
    store_be32(data + PRIVATE_FIELDS, h->bitmaps);
    store_be64(data + PRIVATE_FIELDS + 4, h->table_offset);
    store_be32(data + PRIVATE_FLAGS, p->flags);
    store_be32(data + PRIVATE_CRC, private_crc(data));
}

uint64_t header_autoclear(const struct header *h)
{
    return (h->autoclear & AUTOCLEAR_KEPT) | (h->snapshots == 0 ? AUTOCLEAR_OURS : 0);
}

int header_build(struct header *h, struct error *error)
{
    uint32_t length = h->length < HEADER_BYTES ? HEADER_BYTES : h->length;
    uint64_t total = length;
    uint8_t data[PRIVATE_BYTES];

    /* An odd length would misalign our extension for nobody's good. */
    length = (length + 7) & ~7u;
    total = (uint64_t)length + EXTENSION_HEADER_BYTES + PRIVATE_BYTES + EXTENSION_HEADER_BYTES;
    for (size_t i = 0; i < h->n_foreign; i++) {
        total += EXTENSION_HEADER_BYTES + (((uint64_t)h->foreign[i].length + 7) & ~UINT64_C(7));
    }
    uint64_t name_at = total;
    total += h->backing_bytes;
    if (total > UINT64_C(1) << h->cluster_bits) {
        return error_set(error, -EFBIG,
                         "the header, its extensions and the backing file name need %" PRIu64
                         " bytes, a cluster has %" PRIu64,
                         total, UINT64_C(1) << h->cluster_bits);
    }
    uint8_t *bytes = calloc(1, (size_t)total);
    if (!bytes) {
        return error_set_errno(error, -ENOMEM, "cannot build the header");
    }

    memcpy(bytes, h->fixed, h->length);
    /* An offset without a name would only end the extensions where it points. */
    store_be64(bytes + HEADER_BACKING_OFFSET, h->backing_bytes > 0 ? name_at : 0);
    if (h->backing_bytes > 0) {
        memcpy(bytes + name_at, h->backing_name, h->backing_bytes);
    }
    store_be64(bytes + HEADER_REFCOUNT_TABLE_OFFSET, h->refcount_table_offset);
    store_be32(bytes + HEADER_REFCOUNT_TABLE_CLUSTERS, h->refcount_table_clusters);
    store_be64(bytes + HEADER_AUTOCLEAR, header_autoclear(h));
    store_be32(bytes + HEADER_LENGTH, length);
    store_be32(bytes + HEADER_BITMAPS, h->bitmaps);
    store_be64(bytes + HEADER_BITMAPS_OFFSET, h->table_offset);

    size_t at = length;
    private_build(h, data);
    store_extension(bytes, &at, EXTENSION_PRIVATE, data, PRIVATE_BYTES);
    for (size_t i = 0; i < h->n_foreign; i++) {
        store_extension(bytes, &at, h->foreign[i].type, h->foreign[i].data, h->foreign[i].length);
    }
    size_t private_at = (size_t)length + EXTENSION_HEADER_BYTES;
    store_be32(bytes + private_at + PRIVATE_HEADER_CRC,
               block_crc(bytes, (size_t)total, private_at));

    free(h->block);
    h->block = bytes;
    h->block_bytes = (size_t)total;
    return 0;
}

void header_deinit(struct header *h)
{
    for (size_t i = 0; i < h->n_foreign; i++) {
        free(h->foreign[i].data);
    }
    free(h->foreign);
    free(h->fixed);
    free(h->backing_name);
    free(h->block);
    *h = (struct header){0};
}

bool header_has_disk(const struct header *h)
{
    return h->virtual_size != 0 || h->l1_entries != 0 || h->snapshots != 0 || h->backing_bytes != 0;
}

const struct extension *header_extension(const struct header *h, uint32_t type)
{
    for (size_t i = 0; i < h->n_foreign; i++) {
        if (h->foreign[i].type == type) {
            return &h->foreign[i];
        }
    }
    return NULL;
}

bool header_refuses_writing(const struct header *h, struct error *error)
{
    const char *what = NULL;

    if (h->crypt_method != 0 || header_extension(h, EXTENSION_ENCRYPTION)) {
        what = "it is encrypted";
    } else if (h->incompatible & INCOMPATIBLE_CORRUPT) {
        what = "another program marked it as corrupt (incompatible feature bit 1); "
               "'qemu-img check -r all FILE' repairs what can be repaired";
    } else if (h->incompatible & INCOMPATIBLE_DIRTY) {
        what = "its refcounts are not up to date (dirty, incompatible feature bit 0: a program "
               "with lazy refcounts did not close it); 'qemu-img check -r all FILE' counts anew";
    } else if (h->incompatible & INCOMPATIBLE_EXTERNAL_DATA) {
        what = "its disk's data are in another file (incompatible feature bit 2)";
    } else if (h->incompatible & INCOMPATIBLE_EXTENDED_L2) {
        what = "it has extended L2 entries (incompatible feature bit 4); 'qemu-img convert -O "
               "qcow2 -o extended_l2=off' makes a copy without them";
    } else if (h->incompatible != 0) {
        what = "it has incompatible features";
    }
    if (what) {
        (void)error_set(error, -ENOTSUP, "not written to by this version: %s", what);
    }
    return what != NULL;
}

bool header_fully_understood(const struct header *h)
{
    if (header_refuses_writing(h, NULL)) {
        return false;
    }
    for (size_t i = 0; i < h->n_foreign; i++) {
        switch (h->foreign[i].type) {
        case EXTENSION_FEATURE_NAMES:
        case EXTENSION_BACKING_FORMAT:
        case EXTENSION_DATA_FILE:
        case EXTENSION_PADDING:
            break;
        case EXTENSION_BITMAPS:
            /* Without its bit it is out of date, and what it leads to is anybody's. */
            if (h->autoclear & AUTOCLEAR_BITMAPS) {
                break;
            }
            return false;
        default:
            return false;
        }
    }
    return true;
}
