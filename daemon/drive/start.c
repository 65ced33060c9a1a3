/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The start and the end of a model.
 *
 *   1. Lock the container's file (made first when there is none).
 *   2. Open it: header block or mirror, written again as read and synced, so
 *      that nothing is built on a cache that may not be on the disk.
 *   3. Load, verifying checksums.
 *   4. Judge: what happened since the last commit, and what can be believed.
 *   5. Commit the verdicts, without the clean flag, all at once: what destroys
 *      the evidence of a problem is in the same commit as the verdict.
 *   6. The caller listens.
 *
 * Verdicts.  Until there is a journal, marks are acknowledged in memory, so a
 * start that finds no clean flag makes every recording bitmap unknown, and
 * takes it that disabled ones have skipped a mark.  A container that is not the file it says it
 * is (copied or restored) may be older than the drives: everything becomes
 * unknown unless the operator vouches for it.  Damage in one bitmap makes that
 * bitmap unknown, damage of the state payload all of them.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* More than can be used up between two commits. */
#define NUMBERS_SKIPPED (UINT64_C(1) << 32)

static int read_boot_id(struct uuid *ret)
{
    CLEANUP_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    char text[36];
    if (fd < 0 || read(fd, text, sizeof text) != (ssize_t)sizeof text) {
        return -EIO;
    }
    struct uuid uuid;
    size_t nibble = 0;
    for (size_t i = 0; i < sizeof text; i++) {
        if (text[i] == '-') {
            continue;
        }
        int digit = text[i] >= '0' && text[i] <= '9'   ? text[i] - '0'
                    : text[i] >= 'a' && text[i] <= 'f' ? text[i] - 'a' + 10
                                                       : -1;
        if (digit < 0 || nibble >= 32) {
            return -EIO;
        }
        uint8_t *byte = &uuid.bytes[nibble / 2];
        *byte = nibble % 2 ? (uint8_t)(*byte | digit) : (uint8_t)(digit << 4);
        nibble++;
    }
    if (nibble != 32) {
        return -EIO;
    }
    *ret = uuid;
    return 0;
}

/* ---- Step 1: the file ---- */

/* Renames, but never over the container of a daemon that was started at the same time. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -errno;
    }
    return rename(from, to) < 0 ? -errno : 0; /* the filesystem cannot tell */
}

/*
 * Makes an empty container under a temporary name and renames it, so that a
 * crash leaves none or a whole one.
 */
static int create_container(const struct model *model, struct error *error)
{
    const char *path = model->container_path;
    CLEANUP_FREE char *temporary = NULL;
    CLEANUP(file_closep) struct file *file = NULL;
    struct container_create_options options = {
        .cluster_bits = model->settings.cluster_bits,
        .boot_id = model->boot_id,
    };
    int fd;

    if (asprintf(&temporary, "%s.new", path) < 0) {
        temporary = NULL;
        return error_set(error, -ENOMEM, "out of memory");
    }
    if (unlink(temporary) < 0 && errno != ENOENT) {
        return error_set_errno(error, -errno, "cannot remove '%s'", temporary);
    }
    int r = file_open_posix(temporary, FILE_CREATE, &file, &fd, error);
    if (r == 0 && (r = file_identity(fd, &options.identity)) < 0) {
        error_set_errno(error, r, "cannot identify '%s'", temporary);
    }
    if (r == 0 && getrandom(options.uuid.bytes, sizeof options.uuid.bytes, 0) !=
                      (ssize_t)sizeof options.uuid.bytes) {
        r = error_set(error, -EIO, "no random bytes for a container's UUID");
    }
    if (r == 0) {
        r = container_format(file, &options, error);
    }
    if (r == 0 && (r = rename_new(temporary, path)) < 0) {
        error_set_errno(error, r, "cannot rename '%s' to '%s'", temporary, path);
    }
    if (r < 0) {
        (void)unlink(temporary);
        return r;
    }
    r = file_sync_directory(path);
    return r < 0 ? error_set_errno(error, r, "cannot sync the directory of '%s'", path) : 0;
}

static int open_file(const struct model *model, struct file **ret, int *ret_fd, bool *ret_made,
                     struct error *error)
{
    *ret_made = false;
    int r = file_open_posix(model->container_path, FILE_WRITE, ret, ret_fd, error);
    if (r == -ENOENT) {
        r = create_container(model, error);
        if (r < 0) {
            return r;
        }
        *ret_made = true;
        r = file_open_posix(model->container_path, FILE_WRITE, ret, ret_fd, error);
    }
    return r;
}

/* ---- Steps 3 and 4: bits and verdicts ---- */

static void unknown(struct drive_bitmap *bitmap, uint64_t sequence, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void unknown(struct drive_bitmap *bitmap, uint64_t sequence, const char *format, ...)
{
    char reason[MODEL_REASON_BYTES_MAX + 1];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    drive_bitmap_worsen(bitmap, VALIDITY_UNKNOWN, "%s", reason);
    bitmap->changed = sequence;
}

static void unknown_all(struct model *model, uint64_t sequence, const char *reason)
{
    struct drive_bitmap *bitmap;
    RB_FOREACH(bitmap, bitmaps_by_id, &model->bitmaps)
    {
        unknown(bitmap, sequence, "%s", reason);
    }
}

/* Reads the bits of one bitmap; what cannot be read is dirty, and the bitmap unknown. */
static int load_bits(struct container *container, uint32_t index, struct drive_bitmap *bitmap,
                     uint8_t *buffer, uint64_t sequence)
{
    uint32_t chunks = bitmap_chunks(bitmap->bits);

    for (uint32_t i = 0; i < chunks; i++) {
        enum container_cluster_kind kind;
        struct bitmap_chunk_view view;
        struct error error;

        bitmap_chunk(bitmap->bits, i, &view);
        int r = container_bitmap_read(container, index, i, buffer, &kind, &error);
        if (r == 0 && kind == CONTAINER_DATA) {
            r = bitmap_load_chunk(bitmap->bits, i, buffer, view.length_bytes, 0);
            if (r == -ENOMEM) {
                return r;
            }
            if (r < 0) {
                error_set(&error, r, "cluster %u has bits beyond the drive's end", i);
            }
        }
        if (r < 0) {
            log_warning("bitmap %s/%s: %s", bitmap->drive->name, bitmap->name, error.text);
            bitmap->rewrite = true;
            unknown(bitmap, sequence, "damaged in the container: %s", error.text);
            uint64_t span =
                (uint64_t)bitmap_chunk_bytes(bitmap->bits) * 8 * bitmap_granularity(bitmap->bits);
            uint64_t offset = i * span;
            uint64_t left = bitmap->drive->size - offset;
            bitmap_set(bitmap->bits, offset, left < span ? left : span, sequence);
        }
    }
    return 0;
}

/*
 * A bitmap whose entry cannot be used as a whole gets a new entry under a new
 * id; the first commit removes the old one.
 */
static void replace_entry(struct model *model, struct drive_bitmap *bitmap, uint32_t index,
                          uint64_t sequence)
{
    struct drive *drive = bitmap->drive;

    model->replaced[model->replaced_count++] =
        (struct replaced_entry){.index = index, .id = bitmap->id};
    model_unlink_bitmap(model, bitmap);
    bitmap->id = model->next_id++;
    model_link_bitmap(model, drive, bitmap);
    bitmap_set_all(bitmap->bits, sequence);
}

static int load_bitmap(struct model *model, struct container *container,
                       struct drive_bitmap *bitmap, uint8_t *buffer, uint64_t sequence)
{
    struct container_bitmap_info entry;
    char name[BITMAP_FULL_NAME_BYTES];
    uint32_t index;

    if (container_bitmap_find(container, bitmap->id, &index) < 0) {
        bitmap_set_all(bitmap->bits, sequence);
        unknown(bitmap, sequence, "the container has no entry for it");
        return 0;
    }
    container_bitmap_get(container, index, &entry);
    drive_bitmap_full_name(bitmap, name);
    if (entry.damage) {
        log_warning("bitmap %s: %s", name, entry.damage);
        unknown(bitmap, sequence, "damaged in the container: %s", entry.damage);
        replace_entry(model, bitmap, index, sequence);
        return 0;
    }
    if (strcmp(entry.name, name) != 0 || entry.granularity != bitmap_granularity(bitmap->bits) ||
        entry.sectors != (bitmap->drive->size + 511) / 512) {
        unknown(bitmap, sequence, "its entry in the container's table does not fit its state");
        replace_entry(model, bitmap, index, sequence);
        return 0;
    }
    bitmap->stored = true;
    bitmap->committed = sequence - 1;
    return load_bits(container, index, bitmap, buffer, sequence);
}

/*
 * Entries that the model does not know by their ids.  One under a name of ours
 * is what a damaged state left of that bitmap: the first commit replaces it.
 * The others belong to somebody else; their names are taken.
 */
static int sort_entries(struct model *model, struct container *container,
                        const struct container_info *info)
{
    model->foreign_names = calloc((size_t)info->bitmaps + 1, sizeof *model->foreign_names);
    model->replaced = calloc((size_t)info->bitmaps + 1, sizeof *model->replaced);
    if (!model->foreign_names || !model->replaced) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < info->bitmaps; i++) {
        struct container_bitmap_info entry;
        container_bitmap_get(container, i, &entry);
        if (entry.id != 0 && model_bitmap_by_id(model, entry.id)) {
            continue;
        }
        if (model_bitmap_by_name(model, (struct text){entry.name, entry.name_bytes}, NULL)) {
            model->replaced[model->replaced_count++] =
                (struct replaced_entry){.index = i, .id = entry.id};
            continue;
        }
        char *name = strdup(entry.name);
        if (!name) {
            return -ENOMEM;
        }
        model->foreign_names[model->foreign_count++] = name;
    }
    return 0;
}

static int load(struct model *model, struct container *container, const struct container_info *info,
                uint64_t sequence, struct error *error)
{
    CLEANUP_FREE uint8_t *buffer = malloc(info->cluster_size);
    int r = buffer ? sort_entries(model, container, info) : -ENOMEM;

    /* Those that get a new id on the way are behind this one. */
    uint64_t end = model->next_id;
    struct drive_bitmap *bitmap = model_bitmap_after(model, 0);
    while (r == 0 && bitmap && bitmap->id < end) {
        uint64_t id = bitmap->id;
        r = load_bitmap(model, container, bitmap, buffer, sequence);
        bitmap = model_bitmap_after(model, id);
    }
    return r < 0 ? error_set_errno(error, r, "cannot load the bitmaps") : 0;
}

/* Writers may have marked since what was loaded, and still be about to write. */
static void doubt_writers(struct model *model)
{
    struct drive *drive;
    RB_FOREACH(drive, drives_by_id, &model->drives)
    {
        struct writer *writer;
        TAILQ_FOREACH (writer, &drive->writers, entry) {
            writer->unaccounted = true;
        }
    }
}

static void judge_unclean(struct model *model, uint64_t sequence)
{
    doubt_writers(model);
    struct drive_bitmap *bitmap;
    RB_FOREACH(bitmap, bitmaps_by_id, &model->bitmaps)
    {
        if (bitmap->recording) {
            unknown(bitmap, sequence, "bitmapd did not stop cleanly while it recorded");
        } else if (!bitmap->gap) {
            drive_bitmap_set_recording(bitmap, false, true);
            bitmap->changed = sequence;
        }
    }
}

static bool identity_equal(const struct file_identity *a, const struct file_identity *b)
{
    return a->inode == b->inode && a->birth_time_ns == b->birth_time_ns;
}

static void judge(struct model *model, const struct container_info *info,
                  const struct file_identity *identity, unsigned flags, uint64_t sequence)
{
    if (info->used_mirror) {
        log_warning("container %s: the header was damaged; its mirror was used",
                    model->container_path);
    }
    if (info->foreign_write) {
        log_warning("container %s: another program opened it for writing; what its checksums "
                    "prove intact is kept",
                    model->container_path);
    }
    if (!info->clean) {
        judge_unclean(model, sequence);
    }
    if (!identity_equal(&info->identity, identity)) {
        if (flags & MODEL_ACCEPT_COPY) {
            log_notice("container %s: accepted as a copy", model->container_path);
        } else {
            unknown_all(model, sequence, "the container was copied or restored");
            doubt_writers(model);
        }
    }
    if (flags & MODEL_DISTRUST) {
        unknown_all(model, sequence, "started with --distrust");
    }
}

static void report(struct model *model, const struct container_info *info, bool made)
{
    uint32_t count = 0;
    const struct drive_bitmap *first = NULL;
    struct drive_bitmap *bitmap;
    RB_FOREACH(bitmap, bitmaps_by_id, &model->bitmaps)
    {
        if (bitmap->validity == VALIDITY_UNKNOWN) {
            count++;
            first = first ? first : bitmap;
            history_note(model->history, model->sequence, "unknown", bitmap->drive->name,
                         bitmap->name, NULL, bitmap->reason);
        }
    }
    int n = snprintf(model->start_report, sizeof model->start_report,
                     "%s, %u drives, %u bitmaps, %u unknown",
                     made          ? "new container"
                     : info->clean ? "clean container"
                                   : "container was not closed cleanly",
                     model->drives_count, model->bitmaps_count, count);
    if (first && n > 0 && (size_t)n < sizeof model->start_report) {
        (void)snprintf(model->start_report + n, sizeof model->start_report - (size_t)n,
                       " (%s/%s: %s)", first->drive->name, first->name, first->reason);
    }
    if (count > 0) {
        log_warning("%s", model->start_report);
    } else {
        log_info("%s", model->start_report);
    }
    history_note(model->history, model->sequence, "start", NULL, NULL, NULL, model->start_report);
}

/* Drives and bitmaps as the payload tells, or, when it is damaged, as far as the table tells. */
static int load_state(struct model *model, struct container *container,
                      const struct container_info *info, char damage[], struct error *error)
{
    const void *payload;
    size_t payload_bytes;
    struct error why = {""};

    memcpy(damage, info->state_damage, sizeof info->state_damage);
    container_state(container, &payload, &payload_bytes);
    int r = payload_bytes ? state_decode(model, payload, payload_bytes, &why) : 0;
    if (r == -ENOMEM) {
        return error_set(error, r, "%s", why.text);
    }
    if (r < 0) {
        (void)snprintf(damage, sizeof info->state_damage, "%.255s", why.text);
    }
    if (r < 0 || (payload_bytes == 0 && damage[0])) {
        log_error("container %s: %s; drives and bitmaps are made anew from the bitmap table, "
                  "drives without bitmaps are lost, all others are unknown and may need a resize",
                  model->container_path, damage);
        model_clear(model);
        r = rebuild_from_table(model, container, info);
        if (r < 0) {
            return error_set_errno(error, r, "cannot make the drives anew");
        }
    } else if (damage[0]) {
        log_error("container %s: %s; all bitmaps are unknown", model->container_path, damage);
    }
    return 0;
}

/* Steps 3 to 5, on an open container.  Takes it over on success. */
static int take_container(struct model *model, struct container *container,
                          const struct file_identity *identity, unsigned flags, bool made,
                          struct error *error)
{
    struct container_info info;
    container_get_info(container, &info);
    model->settings.cluster_bits = (uint32_t)__builtin_ctz(info.cluster_size);
    model->sequence = info.applied_seq;
    model->next_id = 1;
    if (info.applied_seq >= UINT64_MAX / 2) {
        return error_set(error, -EBADMSG, "container: applied sequence %llu is out of range",
                         (unsigned long long)info.applied_seq);
    }

    char damage[sizeof info.state_damage] = "";
    int r = load_state(model, container, &info, damage, error);
    if (r < 0) {
        return r;
    }

    if (!info.clean || !identity_equal(&info.identity, identity)) {
        /* What was numbered after this commit is lost here, but clients may remember it. */
        model->sequence += NUMBERS_SKIPPED;
        model->next_id += NUMBERS_SKIPPED;
    }
    uint64_t sequence = model->sequence + 1;
    r = load(model, container, &info, sequence, error);
    if (r < 0) {
        return r;
    }
    model->sequence = sequence;
    if (damage[0]) {
        unknown_all(model, sequence, damage);
    }
    judge(model, &info, identity, flags, sequence);
    container_set_max_size(container, model->settings.container_bytes_max);
    r = writeback_new(model, container, identity, &model->writeback);
    if (r < 0) {
        return error_set_errno(error, r, "cannot start the container's thread");
    }
    (void)writeback_now(model->writeback, error);

    r = history_new(model->loop, model->settings.catalog_path, model->settings.catalog_events,
                    &model->history);
    if (r < 0) {
        log_warning("catalog %s: %s; history is not kept", model->settings.catalog_path,
                    strerror(-r));
    }
    report(model, &info, made);
    return 0;
}

int model_open(uv_loop_t *loop, const struct model_settings *settings, unsigned flags,
               struct model **ret, struct error *error)
{
    CLEANUP(model_freep) struct model *model = calloc(1, sizeof *model);
    CLEANUP(file_closep) struct file *file = NULL;
    CLEANUP(container_closep) struct container *container = NULL;
    struct file_identity identity;
    bool made;
    int fd;

    if (!model || !(model->container_path = strdup(settings->container_path))) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    model->loop = loop;
    model->settings = *settings;
    model->settings.container_path = model->container_path;
    RB_INIT(&model->drives);
    RB_INIT(&model->drive_names);
    RB_INIT(&model->bitmaps);
    RB_INIT(&model->requests);
    TAILQ_INIT(&model->requests_order);
    TAILQ_INIT(&model->waiters);
    int r = read_boot_id(&model->boot_id);
    if (r < 0) {
        return error_set(error, r, "cannot read /proc/sys/kernel/random/boot_id");
    }

    r = open_file(model, &file, &fd, &made, error);
    if (r == 0) {
        r = container_lock(fd, true, error);
    }
    if (r == 0 && (r = file_identity(fd, &identity)) < 0) {
        error_set_errno(error, r, "cannot identify the file");
    }
    if (r == 0) {
        r = container_open(file, CONTAINER_OPEN_WRITE, &container, error);
    }
    if (r < 0) {
        return error_prefix(error, r, "%s", model->container_path);
    }
    file = NULL;

    r = take_container(model, container, &identity, flags, made, error);
    if (r < 0) {
        return error_prefix(error, r, "%s", model->container_path);
    }
    container = NULL;
    *ret = STEAL(model);
    return 0;
}

void model_configure(struct model *model, const struct model_settings *settings)
{
    struct model_settings old = model->settings;
    model->settings = *settings;
    model->settings.container_path = old.container_path;
    model->settings.catalog_path = NULL; /* the history has its own */
    model->settings.cluster_bits = old.cluster_bits;
    model->settings.container_bytes_max = old.container_bytes_max;
    writeback_configure(model->writeback);
}

/* ---- The end ---- */

static void history_closed(void *opaque)
{
    struct model *model = opaque;
    void (*closed)(void *opaque, int r) = model->closed;
    void *closed_opaque = model->closed_opaque;
    int r = model->close_r;

    model_free(model);
    closed(closed_opaque, r);
}

static void writeback_closed(struct model *model, int r)
{
    model->close_r = r;
    history_note(model->history, model->sequence, "stop", NULL, NULL, NULL,
                 r < 0 ? "not clean: the last write-back failed" : NULL);
    history_close(model->history, history_closed, model);
}

void model_close(struct model *model, void (*closed)(void *opaque, int r), void *opaque)
{
    model->closed = closed;
    model->closed_opaque = opaque;
    writeback_close(model->writeback, writeback_closed);
}
