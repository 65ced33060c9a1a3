/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The start and the end of a model.
 *
 *   1. Lock the container's file (made first when there is none).
 *   2. Open it: header block or mirror, written again as read and synced, so
 *      that nothing is built on a cache that may not be on the disk.
 *   3. Load, verifying checksums.
 *   4. Replay the journal when the container was not closed cleanly; judge what
 *      happened since the last commit, and what can be believed.
 *   5. Commit all that: what destroys the evidence of a problem is in the same
 *      commit as the verdict.  Marked clean, it needs no journal, so the old one
 *      goes.  Make a new journal; commit its instance, without the clean flag.
 *      What fails here is tried again from the loop, and changes are refused until then.
 *   6. The caller listens.
 */
#include "daemon/drive/start.h"
#include "daemon/drive/journaling.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* More than can be used up between two commits. */
#define NUMBERS_SKIPPED (UINT64_C(1) << 32)

/* ---- Step 1: the file ---- */

/*
 * Makes an empty container under a temporary name and renames it, so that a
 * crash leaves none or a whole one; but never over the container of a daemon that
 * was started at the same time.
 */
static int create_container(const struct model *model, struct error *error)
{
    struct file_system *files = model->settings.files;
    const char *path = model->container_path;
    CLEANUP_FREE char *temporary = NULL;
    CLEANUP(file_closep) struct file *file = NULL;
    struct container_create_options options = {
        .cluster_bits = model->settings.cluster_bits,
        .boot_id = model->boot_id,
    };

    if (asprintf(&temporary, "%s.new", path) < 0) {
        temporary = NULL;
        return error_set(error, -ENOMEM, "out of memory");
    }
    int r = file_system_create(files, temporary, &file, error);
    if (r < 0) {
        return r;
    }
    r = file_identity_of(file, &options.identity);
    if (r < 0) {
        error_set_errno(error, r, "cannot identify '%s'", temporary);
    }
    if (r == 0 && getrandom(options.uuid.bytes, sizeof options.uuid.bytes, 0) !=
                      (ssize_t)sizeof options.uuid.bytes) {
        r = error_set(error, -EIO, "no random bytes for a container's UUID");
    }
    if (r == 0) {
        r = container_format(file, &options, error);
    }
    if (r == 0) {
        r = file_system_rename(files, temporary, path, false, error);
    }
    if (r < 0) {
        (void)files->unlink(files, temporary);
    }
    return r;
}

static int open_file(const struct model *model, struct file **ret, bool *ret_made,
                     struct error *error)
{
    struct file_system *files = model->settings.files;

    *ret_made = false;
    int r = files->open(files, model->container_path, FILE_WRITE, ret, error);
    if (r == -ENOENT) {
        r = create_container(model, error);
        if (r < 0) {
            return r;
        }
        *ret_made = true;
        r = files->open(files, model->container_path, FILE_WRITE, ret, error);
    }
    return r;
}

/* Against other processes: of a simulated file there are none. */
static int lock_file(struct file *file, struct error *error)
{
    int fd = file_descriptor(file);
    return fd < 0 ? 0 : container_lock(fd, true, error);
}

/* ---- Steps 3 to 5 ---- */

/* Steps 3 to 5, on an open container; *taken is NULL once it is the write-back's. */
static int take_container(struct model *model, struct container **taken,
                          const struct file_identity *identity, unsigned flags, bool made,
                          struct error *error)
{
    struct container *container = *taken;
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
    int r = start_load_state(model, container, &info, damage, error);
    if (r < 0) {
        return r;
    }

    r = start_load(model, container, &info, model->sequence + 1, error);
    struct replay_report replayed;
    if (r == 0) {
        model->loading = container;
        r = replay_journal(model, &info, flags & MODEL_DISTRUST, &replayed, error);
        model->loading = NULL;
    }
    if (r < 0) {
        return r;
    }

    start_rename_replaced(model);
    if (replayed.damage[0] || replayed.memory_damage[0] || replayed.stale ||
        !start_identity_equal(&info.identity, identity)) {
        /* What was numbered after this commit is lost here, but clients may remember it. */
        model->sequence += NUMBERS_SKIPPED;
        model->next_id += NUMBERS_SKIPPED;
    }
    uint64_t sequence = max_u64(model->sequence, replayed.highest_seq) + 1;
    model->sequence = sequence;
    if (damage[0]) {
        start_unknown_all(model, sequence, damage);
    }
    start_judge(model, &info, &replayed, identity, flags, sequence);
    container_set_max_size(container, model->settings.container_bytes_max);
    r = writeback_new(model, container, identity, &model->writeback);
    if (r < 0) {
        return error_set_errno(error, r, "cannot start the container's thread");
    }
    *taken = NULL;
    r = retention_new(model, &model->retention);
    if (r < 0) {
        writeback_abandon(model->writeback);
        return error_set_errno(error, r, "cannot start");
    }
    r = journaling_new(model, &model->journaling);
    if (r < 0) {
        retention_abandon(model->retention);
        writeback_abandon(model->writeback);
        return error_set_errno(error, r, "cannot start the journal's thread");
    }
    writeback_begin(model->writeback, replayed.damage[0] || replayed.stale || replayed.foreign);

    r = history_new(model->loop, model->settings.catalog_path, model->settings.catalog_events,
                    &model->history);
    if (r < 0) {
        log_warning("catalog %s: %s; history is not kept", model->settings.catalog_path,
                    strerror(-r));
    }
    start_report(model, &info, &replayed, made);
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

    if (!model || !(model->container_path = strdup(settings->container_path)) ||
        !(model->journal_path = strdup(settings->journal_path)) ||
        (settings->memory_path &&
         settings->files->in_memory(settings->files, settings->memory_path) &&
         !(model->memory_path = strdup(settings->memory_path)))) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    model->loop = loop;
    model->settings = *settings;
    model->settings.container_path = model->container_path;
    model->settings.journal_path = model->journal_path;
    model->settings.memory_path = model->memory_path;
    RB_INIT(&model->drives);
    RB_INIT(&model->drive_names);
    RB_INIT(&model->bitmaps);
    RB_INIT(&model->requests);
    TAILQ_INIT(&model->requests_order);
    TAILQ_INIT(&model->removed);
    TAILQ_INIT(&model->cache);
    for (size_t i = 0; i < ACK_LEVELS; i++) {
        TAILQ_INIT(&model->waiters[i]);
    }
    unions_init(model);
    memcpy(model->boot_id.bytes, settings->boot_id, sizeof model->boot_id.bytes);
    model->journal_files = (struct journal_files){settings->files, model->journal_path, false};
    if (model->memory_path) {
        model->memory_files = (struct journal_files){settings->files, model->memory_path, false};
    }

    int r = open_file(model, &file, &made, error);
    if (r == 0) {
        r = lock_file(file, error);
    }
    if (r == 0 && (r = file_identity_of(file, &identity)) < 0) {
        error_set_errno(error, r, "cannot identify the file");
    }
    if (r == 0) {
        r = container_open(file, CONTAINER_OPEN_WRITE, &container, error);
    }
    if (r < 0) {
        return error_prefix(error, r, "%s", model->container_path);
    }
    file = NULL;

    r = take_container(model, &container, &identity, flags, made, error);
    if (r < 0) {
        return error_prefix(error, r, "%s", model->container_path);
    }
    *ret = STEAL(model);
    return 0;
}

void model_configure(struct model *model, const struct model_settings *settings)
{
    struct model_settings old = model->settings;
    model->settings = *settings;
    model->settings.files = old.files;
    memcpy(model->settings.boot_id, old.boot_id, sizeof old.boot_id);
    model->settings.container_path = old.container_path;
    model->settings.journal_path = old.journal_path;
    model->settings.memory_path = old.memory_path;
    model->settings.journal_segment_bytes = old.journal_segment_bytes;
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

static void journaling_closed(struct model *model)
{
    history_note(model->history, model->sequence, "stop", NULL, NULL, NULL,
                 model->close_r < 0 ? "not clean: the last write-back failed" : NULL);
    history_close(model->history, history_closed, model);
}

static void retention_closed(struct model *model)
{
    journaling_close(model->journaling, journaling_closed);
}

static void writeback_closed(struct model *model, int r)
{
    model->close_r = r;
    retention_close(model->retention, retention_closed);
}

void model_close(struct model *model, void (*closed)(void *opaque, int r), void *opaque)
{
    model->closed = closed;
    model->closed_opaque = opaque;
    unions_close(model);
    writeback_close(model->writeback, writeback_closed);
}
