/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What fuzz targets ask of a container, whatever its bytes: see view.h.
 */
#include "tests/fuzz/view.h"

#include "daemon/container/internal.h"

static uint64_t mix(uint64_t digest, uint64_t value)
{
    return hash_id(digest ^ value);
}

static bool is_noted(const char *damage)
{
    return damage && strstr(damage, "lost earlier");
}

/* Bits that stand for no granule are nobody's: cleared.  False when no others are set. */
static bool clear_tail(const struct container *c, const struct container_bitmap_info *b,
                       uint32_t l1_index, uint8_t *bits)
{
    uint64_t per_cluster = cluster_bytes(c) * 8, first = l1_index * per_cluster;
    uint64_t granules = div_round_up(b->sectors, b->granularity / 512);

    for (uint64_t i = granules > first ? granules - first : 0; i < per_cluster; i++) {
        if (i % 8 == 0) {
            memset(bits + i / 8, 0, cluster_bytes(c) - i / 8);
            break;
        }
        bits[i / 8] &= (uint8_t) ~(1u << (i % 8));
    }
    return !bits_clear_from(bits, cluster_bytes(c), 0);
}

static void take_bitmap(struct container *c, uint32_t index, uint8_t *buffer,
                        struct view_bitmap *ret)
{
    struct container_bitmap_info b;
    struct error error = {{0}};

    container_bitmap_get(c, index, &b);
    *ret = (struct view_bitmap){.id = b.id, .good = b.damage == NULL, .noted = is_noted(b.damage)};
    ret->shape = mix(mix(hash_name(b.name, b.name_bytes), b.granularity), b.sectors);
    for (uint32_t i = 0; ret->good && i < b.l1_entries; i++) {
        enum container_cluster_kind kind;
        int r = container_bitmap_read(c, index, i, buffer, &kind, &error);
        if (r < 0) {
            MUST(r == -EBADMSG && error.text[0] != '\0');
            container_bitmap_get(c, index, &b);
            MUST(b.damage && b.damage[0] != '\0');
            ret->good = false;
        } else if (kind == CONTAINER_DATA && clear_tail(c, &b, i, buffer)) {
            ret->bits = mix(mix(ret->bits, i), crc32c(0, buffer, cluster_bytes(c)));
        }
    }
}

void view_take(struct container *c, struct view *ret)
{
    struct view view = {0};
    const void *payload;
    size_t bytes;

    container_get_info(c, &view.info);
    container_state(c, &payload, &bytes);
    view.payload = bytes > 0 ? mix(bytes, crc32c(0, payload, bytes)) : 0;
    uint8_t *buffer = malloc(view.info.cluster_size);
    view.bitmaps = calloc((size_t)view.info.bitmaps + 1, sizeof *view.bitmaps);
    MUST(buffer && view.bitmaps);
    for (uint32_t i = 0; i < view.info.bitmaps; i++) {
        take_bitmap(c, i, buffer, &view.bitmaps[i]);
    }
    free(buffer);
    *ret = view;
}

void view_release(struct view *view)
{
    free(view->bitmaps);
    *view = (struct view){0};
}

const struct view_bitmap *view_find(const struct view *view, uint64_t id)
{
    for (uint32_t i = 0; i < view->info.bitmaps; i++) {
        if (view->bitmaps[i].id == id) {
            return &view->bitmaps[i];
        }
    }
    return NULL;
}

bool view_has_damage(const struct view *view)
{
    for (uint32_t i = 0; i < view->info.bitmaps; i++) {
        if (!view->bitmaps[i].good && !view->bitmaps[i].noted) {
            return true;
        }
    }
    return view->info.state_damage[0] != '\0' && !is_noted(view->info.state_damage);
}

void view_check_refusal(int r, const struct error *error)
{
    MUST(r == -EBADMSG || r == -ENOTSUP || r == -EFBIG);
    MUST(error->text[0] != '\0');
}

static void look_at_finding(void *opaque, bool corruption, const char *text)
{
    (void)opaque;
    (void)corruption;
    MUST(text[0] != '\0');
    for (const char *p = text; *p; p++) {
        MUST((unsigned char)*p >= 0x20 && *p != 0x7f);
    }
}

int view_check(struct file *file, struct container_check_report *ret)
{
    struct error error = {{0}};
    int r = container_check(file, look_at_finding, NULL, ret, &error);

    if (r < 0) {
        view_check_refusal(r, &error);
    }
    return r;
}

struct container *view_open(struct file *file, unsigned flags)
{
    struct container *c;
    struct error error = {{0}};
    int r = container_open(file, flags, &c, &error);

    if (r < 0) {
        view_check_refusal(r, &error);
        return NULL;
    }
    return c;
}
