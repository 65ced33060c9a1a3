/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A header block over one that was laid out by somebody else.
 *
 * From one commit of ours to the next only the first sector of the block
 * changes, which a disk writes whole.  Over the block of another program (an
 * image that becomes a container, a container whose header QEMU has rewritten)
 * everything moves, the backing file name too, and QEMU has no mirror to turn
 * to when half of it is on the disk.  So before the first sector is switched,
 * the sectors behind it are written (commit.c, step 1e) where the old block
 * does not reach:
 *
 *     sector 0                            1                    2
 *     [header|features              |end] .................... ........ old
 *     [header|BMAP|features              |features|end]                 new
 *
 *     [header|file format|features        |end|backing name]   ........ old
 *     [header|BMAP|BPAD                                ] [file format|… new
 *
 * The second one has an extension of ours in it that only fills the space up to
 * the old block's last sector, with the bytes that stood there, so that writing
 * it changes nothing there.  Where that would take more than half of cluster 0,
 * which QEMU needs to be able to rewrite the header itself, the block is
 * written in one go, as QEMU does it.
 */
#include "daemon/container/internal.h"

#define SECTOR 512u

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 7) & ~UINT64_C(7);
}

/* Up to the end of our extension, which comes first. */
static uint64_t bytes_to_ours(const struct header *h)
{
    return padded(max_u64(h->length, HEADER_BYTES)) + EXTENSION_HEADER_BYTES + PRIVATE_BYTES;
}

uint64_t spread_block_bytes(const struct header *h, uint64_t padding)
{
    uint64_t bytes = bytes_to_ours(h) + EXTENSION_HEADER_BYTES + h->backing_bytes;

    for (size_t i = 0; i < h->n_foreign; i++) {
        bytes += EXTENSION_HEADER_BYTES + padded(h->foreign[i].length);
    }
    return bytes + (padding ? EXTENSION_HEADER_BYTES + padding : 0);
}

static void remove_padding(struct header *h)
{
    size_t kept = 0;

    for (size_t i = 0; i < h->n_foreign; i++) {
        if (h->foreign[i].type == EXTENSION_PADDING) {
            free(h->foreign[i].data);
        } else {
            h->foreign[kept++] = h->foreign[i];
        }
    }
    h->n_foreign = kept;
}

/*
 * Goes first among the foreign extensions, so right behind ours, with its
 * @bytes of data at @offset of the new block.
 */
static int add_padding(struct header *h, uint64_t offset, uint64_t bytes)
{
    struct extension *grown = reallocarray(h->foreign, h->n_foreign + 1, sizeof *grown);
    uint8_t *data = calloc(1, bytes);

    if (grown) {
        h->foreign = grown;
        h->foreign_capacity = h->n_foreign + 1;
    }
    if (!grown || !data) {
        free(data);
        return -ENOMEM;
    }
    memcpy(data + (SECTOR - offset), h->block + SECTOR, h->block_bytes - SECTOR);
    memmove(grown + 1, grown, h->n_foreign * sizeof *grown);
    grown[0] =
        (struct extension){.type = EXTENSION_PADDING, .length = (uint32_t)bytes, .data = data};
    h->n_foreign++;
    return 0;
}

int spread_plan(struct container *c, struct error *error)
{
    struct header *h = &c->header;
    uint64_t behind = (h->block_bytes + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
    uint64_t at = bytes_to_ours(h) + EXTENSION_HEADER_BYTES; /* of the padding */

    remove_padding(h);
    if (behind <= SECTOR) {
        c->spread = bytes_to_ours(h) <= SECTOR;
        return 0;
    }
    if (at > SECTOR || spread_block_bytes(h, behind - at) > cluster_bytes(c) / 2) {
        return 0;
    }
    c->spread = true;
    int r = add_padding(h, at, behind - at);
    return r < 0 ? error_set_errno(error, r, "cannot lay out the header") : 0;
}
