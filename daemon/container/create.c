/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new container: no bitmaps, empty state, clean.
 *
 *     cluster 0  header block
 *             1  refcount table
 *             2  refcount block
 *             3  mirror
 *             4  state blob
 *
 * The header goes last, behind a sync, so that a crash leaves a file without a
 * magic rather than a container without content.
 */
#include "daemon/container/internal.h"

enum {
    CLUSTER_HEADER,
    CLUSTER_REFCOUNT_TABLE,
    CLUSTER_REFCOUNT_BLOCK,
    CLUSTER_MIRROR,
    CLUSTER_STATE,
    CLUSTERS,
};

_Static_assert(STATE_HEADER_BYTES <= 1u << CONTAINER_CLUSTER_BITS_MIN,
               "an empty state fits any cluster");

static int build_header(const struct container_create_options *options, struct header *h,
                        struct error *error)
{
    uint32_t bits = options->cluster_bits;

    *h = (struct header){
        .length = HEADER_BYTES,
        .cluster_bits = bits,
        .refcount_order = HEADER_REFCOUNT_ORDER_DEFAULT,
        .refcount_table_offset = (uint64_t)CLUSTER_REFCOUNT_TABLE << bits,
        .refcount_table_clusters = 1,
        .has_private = true,
        .private =
            {
                .state_offset = (uint64_t)CLUSTER_STATE << bits,
                .state_bytes = STATE_HEADER_BYTES,
                .mirror_offset = (uint64_t)CLUSTER_MIRROR << bits,
                .uuid = options->uuid,
                .commit_id = options->uuid, /* as random, and as fresh, as any */
                .clean = true,
                .boot_id = options->boot_id,
                .identity = options->identity,
            },
    };
    h->fixed = calloc(1, HEADER_BYTES);
    if (!h->fixed) {
        return error_set_errno(error, -ENOMEM, "cannot make a container");
    }
    store_be32(h->fixed + HEADER_MAGIC, HEADER_MAGIC_VALUE);
    store_be32(h->fixed + HEADER_VERSION, HEADER_VERSION_VALUE);
    store_be32(h->fixed + HEADER_CLUSTER_BITS, bits);
    store_be32(h->fixed + HEADER_REFCOUNT_ORDER, HEADER_REFCOUNT_ORDER_DEFAULT);
    return header_build(h, error);
}

int container_format(struct file *file, const struct container_create_options *options,
                     struct error *error)
{
    CLEANUP(header_deinit) struct header h = {0};
    CLEANUP(blob_deinit) struct blob blob = {0};
    CLEANUP_FREE uint8_t *image = NULL;
    uint64_t bytes, size;
    int r;

    if (options->cluster_bits < CONTAINER_CLUSTER_BITS_MIN ||
        options->cluster_bits > CONTAINER_CLUSTER_BITS_MAX) {
        return error_set(error, -EINVAL, "cluster_bits: found %" PRIu32 ", expected %d to %d",
                         options->cluster_bits, CONTAINER_CLUSTER_BITS_MIN,
                         CONTAINER_CLUSTER_BITS_MAX);
    }
    r = file_size(file, &bytes);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the file's size");
    }
    if (bytes != 0) {
        return error_set(error, -EEXIST, "found a file of %" PRIu64 " bytes, expected an empty one",
                         bytes);
    }
    r = build_header(options, &h, error);
    if (r < 0) {
        return r;
    }
    size = UINT64_C(1) << options->cluster_bits;
    r = blob_build(NULL, 0, &h.private, 0, 0, NULL, 0, size, &blob);
    image = calloc(CLUSTERS, size);
    if (r < 0 || !image) {
        return error_set_errno(error, -ENOMEM, "cannot make a container");
    }
    store_be64(image + CLUSTER_REFCOUNT_TABLE * size, CLUSTER_REFCOUNT_BLOCK * size);
    for (uint64_t i = 0; i < CLUSTERS; i++) {
        refcount_set(image + CLUSTER_REFCOUNT_BLOCK * size, HEADER_REFCOUNT_ORDER_DEFAULT, i, 1);
    }
    memcpy(image + CLUSTER_MIRROR * size, h.block, h.block_bytes);
    memcpy(image + CLUSTER_STATE * size, blob.bytes, size);

    r = file_write(file, image, CLUSTERS * size, 0);
    if (r == 0) {
        r = file_datasync(file);
    }
    if (r == 0) {
        memcpy(image, h.block, h.block_bytes);
        r = file_write(file, image, size, 0);
    }
    if (r == 0) {
        r = file_datasync(file);
    }
    return r < 0 ? error_set_errno(error, r, "cannot write the new container") : 0;
}
