/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The offline verbs `create` and `info`: they work on a container's file, not
 * through the daemon.
 *
 * `info` takes a reader's lock, so it works beside a running daemon.  The
 * container is copy-on-write and what it reads is verified by checksums, so a
 * commit meanwhile does no harm, unless a second one reuses what the first
 * has freed: then something looks damaged, and if the commit id has moved,
 * everything is read once more; if that happens again, the container is busy,
 * not damaged.
 */
#include "client/ctl/image.h"

#include "client/ctl/exit.h"
#include "client/ctl/text.h"
#include "client/ctl/verbs.h"
#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int image_report(const char *verb, int r, const struct error *error)
{
    output_diagnostic("container %s: %s", verb, error->text);
    return exit_from_file(r);
}

int image_open_locked(const char *path, enum file_mode mode, bool write, struct file **ret_file,
                      int *ret_fd, struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    int fd;

    int r = file_open_posix(path, mode, &file, &fd, error);
    if (r < 0) {
        return r;
    }
    r = container_lock(fd, write, error);
    if (r < 0) {
        return error_prefix(error, r, "%s", path);
    }
    *ret_file = STEAL(file);
    *ret_fd = fd;
    return 0;
}

static int uuid_generate(struct uuid *ret, struct error *error)
{
    struct uuid uuid;

    if (getrandom(uuid.bytes, sizeof uuid.bytes, 0) != (ssize_t)sizeof uuid.bytes) {
        return error_set_errno(error, -errno, "cannot get random bytes");
    }
    uuid.bytes[6] = (uint8_t)((uuid.bytes[6] & 0x0f) | 0x40); /* version 4, RFC 4122 */
    uuid.bytes[8] = (uint8_t)((uuid.bytes[8] & 0x3f) | 0x80);
    *ret = uuid;
    return 0;
}

static int format_file(struct file *file, int fd, const struct container_create_options *wanted,
                       struct error *error)
{
    struct container_create_options with_identity = *wanted;

    int r = container_lock(fd, true, error);
    if (r < 0) {
        return r;
    }
    r = file_identity(fd, &with_identity.identity);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the file's identity");
    }
    return container_format(file, &with_identity, error);
}

int image_create(const struct invocation *inv)
{
    const char *path = inv->operands[0];
    struct container_create_options wanted = {.cluster_bits = CONTAINER_CLUSTER_BITS_DEFAULT};
    CLEANUP(file_closep) struct file *file = NULL;
    struct error error = {.text = ""};
    char uuid[TEXT_UUID_BYTES];
    char size[TEXT_SIZE_BYTES];
    int fd;

    if (inv->given[OPTION_INTERNAL]) {
        return image_prepare(inv);
    }
    if (inv->cluster_size != 0) {
        wanted.cluster_bits = (uint32_t)__builtin_ctz(inv->cluster_size);
    }
    int r = uuid_generate(&wanted.uuid, &error);
    if (r == 0) {
        r = file_open_posix(path, FILE_CREATE, &file, &fd, &error);
    }
    if (r < 0) {
        return image_report("create", r, &error);
    }
    r = format_file(file, fd, &wanted, &error);
    if (r < 0) {
        /* The file is ours: FILE_CREATE refuses one that was there. */
        (void)unlink(path);
        return image_report("create", error_prefix(&error, r, "%s", path), &error);
    }
    uint32_t cluster_size = UINT32_C(1) << wanted.cluster_bits;
    (void)text_uuid(wanted.uuid.bytes, uuid);
    if (inv->format == OUTPUT_HUMAN) {
        output_print("created container %s: cluster size %s, UUID %s\n", output_text(path),
                     text_size(cluster_size, size), uuid);
    } else {
        json_object *object = output_json_new();
        output_json_add_string(object, "file", path);
        output_json_add_number(object, "cluster_size", cluster_size);
        output_json_add_string(object, "uuid", uuid);
        output_json_print(object);
    }
    return EXIT_DONE;
}

#define INFO_ATTEMPTS 2

struct info_bitmap {
    char *name;
    uint32_t granularity;
    uint64_t sectors;
    uint32_t l1_entries;
    uint32_t allocated_clusters;
    uint64_t dirty_bytes;
    char *damage; /* NULL: none; then dirty_bytes counts */
};

struct info {
    struct container_info container;
    struct info_bitmap *bitmaps;
    bool damaged; /* anything */
};

static void info_deinit(struct info *info)
{
    for (uint32_t i = 0; info->bitmaps && i < info->container.bitmaps; i++) {
        free(info->bitmaps[i].name);
        free(info->bitmaps[i].damage);
    }
    free(info->bitmaps);
    *info = (struct info){0};
}

static char *copy_text(const char *text)
{
    char *copy = strdup(text);

    if (!copy) {
        output_no_memory();
    }
    return copy;
}

static uint64_t count_bits(const uint8_t *bits, uint64_t count)
{
    uint64_t n = 0;
    uint64_t at = 0;

    for (; count - at >= 64; at += 64) {
        uint64_t word;
        memcpy(&word, bits + at / 8, sizeof word);
        n += (uint64_t)__builtin_popcountll(word);
    }
    for (; at < count; at++) {
        n += bits[at / 8] >> (at % 8) & 1u;
    }
    return n;
}

/*
 * Counts the dirty bytes of bitmap @index, reading each of its data clusters
 * once.  What cannot be read becomes its damage; < 0 is for other failures.
 */
static int count_bitmap(struct container *container, uint32_t index, uint8_t *cluster,
                        uint64_t cluster_size, struct info_bitmap *ret, struct error *error)
{
    struct container_bitmap_info bitmap;
    uint64_t size_bytes;

    container_bitmap_get(container, index, &bitmap);
    ret->name = copy_text(bitmap.name);
    ret->granularity = bitmap.granularity;
    ret->sectors = bitmap.sectors;
    ret->l1_entries = bitmap.l1_entries;
    ret->allocated_clusters = bitmap.allocated_clusters;
    if (bitmap.damage) {
        ret->damage = copy_text(bitmap.damage);
        return 0;
    }
    if (bitmap.granularity == 0 || !checked_mul_u64(bitmap.sectors, 512, &size_bytes)) {
        ret->damage = copy_text("its granularity or size is impossible");
        return 0;
    }
    uint64_t granules = div_round_up(size_bytes, bitmap.granularity);
    uint64_t granules_per_cluster = cluster_size * 8;
    uint64_t dirty = 0;
    bool last_dirty = false;

    for (uint32_t i = 0; i < bitmap.l1_entries; i++) {
        uint64_t first = i * granules_per_cluster;
        enum container_cluster_kind kind;
        if (first >= granules) {
            break;
        }
        int r = container_bitmap_read(container, index, i, cluster, &kind, error);
        if (r == -ENOMEM) {
            return r;
        }
        if (r < 0) {
            ret->damage = copy_text(error->text);
            return 0;
        }
        if (kind == CONTAINER_DATA) {
            uint64_t here = min_u64(granules - first, granules_per_cluster);
            uint64_t last = here - 1;
            dirty += count_bits(cluster, here);
            last_dirty = first + here == granules && (cluster[last / 8] >> (last % 8) & 1u);
        }
    }
    ret->dirty_bytes = dirty * bitmap.granularity;
    if (last_dirty) {
        /* The last granule is cut by the drive's end. */
        ret->dirty_bytes -= granules * bitmap.granularity - size_bytes;
    }
    return 0;
}

static int open_for_reading(const char *path, struct container **ret, struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    int fd;

    int r = image_open_locked(path, FILE_READ, false, &file, &fd, error);
    if (r < 0) {
        return r;
    }
    r = container_open(file, 0, ret, error);
    if (r < 0) {
        return error_prefix(error, r, "%s", path);
    }
    (void)STEAL(file);
    return 0;
}

static int info_read(const char *path, struct info *ret, struct error *error)
{
    CLEANUP(container_closep) struct container *container = NULL;
    CLEANUP_FREE uint8_t *cluster = NULL;
    CLEANUP(info_deinit) struct info info = {.bitmaps = NULL};

    int r = open_for_reading(path, &container, error);
    if (r < 0) {
        return r;
    }
    container_get_info(container, &info.container);
    info.damaged = info.container.state_damage[0] != '\0';
    cluster = malloc(info.container.cluster_size);
    info.bitmaps = calloc((size_t)info.container.bitmaps + 1, sizeof *info.bitmaps);
    if (!cluster || !info.bitmaps) {
        output_no_memory();
    }
    for (uint32_t i = 0; i < info.container.bitmaps; i++) {
        r = count_bitmap(container, i, cluster, info.container.cluster_size, &info.bitmaps[i],
                         error);
        if (r < 0) {
            return error_prefix(error, r, "%s", path);
        }
        info.damaged = info.damaged || info.bitmaps[i].damage;
    }
    *ret = info;
    info = (struct info){0};
    return 0;
}

/* Whether a commit was made since @before was read. */
static bool has_moved_on(const char *path, const struct container_info *before)
{
    CLEANUP(container_closep) struct container *container = NULL;
    struct container_info now;

    if (open_for_reading(path, &container, NULL) < 0) {
        return true;
    }
    container_get_info(container, &now);
    return memcmp(&now.commit_id, &before->commit_id, sizeof now.commit_id) != 0;
}

/* Never takes for damage what a daemon at work has changed under our hands. */
static int info_read_settled(const char *path, struct info *ret, struct error *error)
{
    for (int attempt = 0; attempt < INFO_ATTEMPTS; attempt++) {
        CLEANUP(info_deinit) struct info info = {.bitmaps = NULL};
        int r = info_read(path, &info, error);
        bool last = attempt + 1 == INFO_ATTEMPTS;
        if (r == -EBADMSG && !last) {
            continue;
        }
        if (r < 0) {
            return r;
        }
        if (!info.damaged || !has_moved_on(path, &info.container)) {
            *ret = info;
            info = (struct info){0};
            return 0;
        }
    }
    return error_set(error, -EBUSY, "%s was changed %d times while it was being read; try again",
                     path, INFO_ATTEMPTS);
}

static void add_text_or_null(json_object *object, const char *key, const char *text)
{
    if (text && text[0]) {
        output_json_add_string(object, key, text);
    } else {
        output_json_add(object, key, NULL);
    }
}

static json_object *bitmap_json(const struct info_bitmap *bitmap)
{
    json_object *object = json_object_new_object();

    if (!object) {
        output_no_memory();
    }
    output_json_add_string(object, "name", bitmap->name);
    output_json_add_number(object, "granularity", bitmap->granularity);
    output_json_add_number(object, "sectors", bitmap->sectors);
    output_json_add_number(object, "l1_entries", bitmap->l1_entries);
    output_json_add_number(object, "allocated_clusters", bitmap->allocated_clusters);
    if (bitmap->damage) {
        output_json_add(object, "dirty_bytes", NULL);
    } else {
        output_json_add_number(object, "dirty_bytes", bitmap->dirty_bytes);
    }
    add_text_or_null(object, "damage", bitmap->damage);
    return object;
}

static void info_print_json(const struct info *info)
{
    const struct container_info *container = &info->container;
    json_object *object = output_json_new();
    json_object *bitmaps = json_object_new_array();
    char uuid[TEXT_UUID_BYTES];

    if (!bitmaps) {
        output_no_memory();
    }
    output_json_add_number(object, "cluster_size", container->cluster_size);
    output_json_add_number(object, "virtual_size", container->virtual_size);
    output_json_add_number(object, "header_length", container->header_length);
    output_json_add_number(object, "refcount_bits", container->refcount_bits);
    output_json_add_number(object, "file_size", container->file_size);
    output_json_add_number(object, "free_clusters", container->free_clusters);
    output_json_add_number(object, "leaks", container->leaked_clusters);
    if (container->has_private) {
        output_json_add_string(object, "uuid", text_uuid(container->uuid.bytes, uuid));
        output_json_add_string(object, "commit_id", text_uuid(container->commit_id.bytes, uuid));
        output_json_add_number(object, "applied_seq", container->applied_seq);
        output_json_add_bool(object, "clean", container->clean);
    } else {
        output_json_add(object, "uuid", NULL);
        output_json_add(object, "commit_id", NULL);
        output_json_add(object, "applied_seq", NULL);
        output_json_add(object, "clean", NULL);
    }
    output_json_add_bool(object, "used_mirror", container->used_mirror);
    output_json_add_bool(object, "foreign_write", container->foreign_write);
    add_text_or_null(object, "state_damage", container->state_damage);
    output_json_add_number(object, "lost_bitmaps", container->lost_bitmaps);
    for (uint32_t i = 0; i < container->bitmaps; i++) {
        output_json_append(bitmaps, bitmap_json(&info->bitmaps[i]));
    }
    output_json_add(object, "bitmaps", bitmaps);
    output_json_print(object);
}

static void info_print_table(const struct info *info)
{
    static const struct output_column columns[] = {
        {"NAME", false},    {"GRANULARITY", true}, {"SECTORS", true}, {"L1", true},
        {"CLUSTERS", true}, {"DIRTY", true},       {"DAMAGE", false},
    };
    CLEANUP(output_list_freep)
    struct output_list *list =
        output_list_new(OUTPUT_HUMAN, "bitmaps", columns, sizeof columns / sizeof columns[0]);

    for (uint32_t i = 0; i < info->container.bitmaps; i++) {
        const struct info_bitmap *bitmap = &info->bitmaps[i];
        char granularity[TEXT_SIZE_BYTES];
        char dirty[TEXT_SIZE_BYTES];
        char numbers[3][24];
        (void)snprintf(numbers[0], sizeof numbers[0], "%" PRIu64, bitmap->sectors);
        (void)snprintf(numbers[1], sizeof numbers[1], "%" PRIu32, bitmap->l1_entries);
        (void)snprintf(numbers[2], sizeof numbers[2], "%" PRIu32, bitmap->allocated_clusters);
        output_list_add_row(list, (const char *const[]){
                                      bitmap->name, text_size(bitmap->granularity, granularity),
                                      numbers[0], numbers[1], numbers[2],
                                      bitmap->damage ? "?" : text_size(bitmap->dirty_bytes, dirty),
                                      bitmap->damage ? bitmap->damage : ""});
    }
    output_list_print(STEAL(list));
}

static void info_print_human(const char *path, const struct info *info)
{
    const struct container_info *container = &info->container;
    char text[TEXT_SIZE_BYTES];
    char uuid[TEXT_UUID_BYTES];

    output_print("container:      %s\n", output_text(path));
    output_print("file size:      %" PRIu64 " (%s)\n", container->file_size,
                 text_size(container->file_size, text));
    output_print("virtual size:   %" PRIu64 "\n", container->virtual_size);
    output_print("cluster size:   %s\n", text_size(container->cluster_size, text));
    output_print("header length:  %" PRIu32 "\n", container->header_length);
    output_print("refcount bits:  %" PRIu32 "\n", container->refcount_bits);
    output_print("free clusters:  %" PRIu64 "\n", container->free_clusters);
    output_print("leaks:          %" PRIu64 "\n", container->leaked_clusters);
    if (container->has_private) {
        output_print("UUID:           %s\n", text_uuid(container->uuid.bytes, uuid));
        output_print("commit:         %s\n", text_uuid(container->commit_id.bytes, uuid));
        output_print("changes up to:  %" PRIu64 "\n", container->applied_seq);
        output_print("closed clean:   %s\n", container->clean ? "yes" : "no");
    } else {
        output_print("state:          none; not written by bitmapd\n");
    }
    if (container->used_mirror) {
        output_print("header:         damaged, read from its mirror\n");
    }
    if (container->foreign_write) {
        output_print("written by:     another program\n");
    }
    if (container->state_damage[0]) {
        output_print("state damage:   %s\n", output_text(container->state_damage));
    }
    if (container->lost_bitmaps > 0) {
        output_print("lost bitmaps:   %" PRIu32 ", with their names\n", container->lost_bitmaps);
    }
    output_print("bitmaps:        %" PRIu32 "\n", container->bitmaps);
    if (container->bitmaps > 0) {
        output_print("\n");
        info_print_table(info);
    }
}

int image_info(const struct invocation *inv)
{
    const char *path = inv->operands[0];
    CLEANUP(info_deinit) struct info info = {.bitmaps = NULL};
    struct error error = {.text = ""};

    int r = info_read_settled(path, &info, &error);
    if (r < 0) {
        return image_report("info", r, &error);
    }
    if (inv->format == OUTPUT_HUMAN) {
        info_print_human(path, &info);
    } else {
        info_print_json(&info);
    }
    return EXIT_DONE;
}
