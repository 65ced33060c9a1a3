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
 *      commit as the verdict.  Marked clean, it needs no journal.  Make a new
 *      journal; commit its instance, without the clean flag.
 *   6. The caller listens.
 */
#include "daemon/drive/start.h"
#include "daemon/drive/journaling.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

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

/* ---- Steps 3 to 5 ---- */

/* Files that a verdict is about are kept for whoever wants to know. */
static void set_aside_journal(const struct model *model)
{
    static const char *const names[] = {JOURNAL_NAME_0, JOURNAL_NAME_1};
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CLEANUP_FREE char *from = NULL;
        CLEANUP_FREE char *to = NULL;
        if (asprintf(&from, "%s.%s", model->settings.journal_path, names[i]) < 0 ||
            asprintf(&to, "%s.damaged-%lld", from, (long long)now.tv_sec) < 0) {
            return;
        }
        if (rename(from, to) == 0) {
            log_warning("the damaged journal %s was moved to %s", from, to);
        }
    }
}

/* The container needs no journal: what is there makes room. */
static void remove_journal(const struct model *model)
{
    static const char *const names[] = {JOURNAL_NAME_0, JOURNAL_NAME_1, JOURNAL_NAME_0_NEW,
                                        JOURNAL_NAME_1_NEW};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CLEANUP_FREE char *path = NULL;
        if (asprintf(&path, "%s.%s", model->settings.journal_path, names[i]) < 0) {
            path = NULL;
        } else if (unlink(path) < 0 && errno != ENOENT) {
            log_warning("cannot remove %s: %s", path, strerror(errno));
        }
    }
}

/*
 * A new journal under its temporary name; the commit that follows names its
 * instance.  @in_force: the instance that the container names until then, when
 * its files may still be needed; else NULL.
 */
static int prepare_journal(struct model *model, const struct journal_files *files,
                           const struct uuid *container, const struct journal_id *in_force,
                           struct error *error)
{
    struct journal_id id;
    struct journal *journal;

    memcpy(id.bytes, container->bytes, sizeof id.bytes);
    if (getrandom(model->instance.bytes, sizeof model->instance.bytes, 0) !=
        (ssize_t)sizeof model->instance.bytes) {
        return error_set(error, -EIO, "no random bytes for a journal's id");
    }
    int r = journal_create(files, &id, &model->instance, in_force,
                           model->settings.journal_segment_bytes, &journal, error);
    if (r < 0) {
        return r;
    }
    r = journaling_new(model, journal, &model->journaling);
    if (r < 0) {
        journal_close(journal);
        return error_set_errno(error, r, "cannot start the journal's thread");
    }
    return 0;
}

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
    struct journal_files files;
    journal_files_posix(model->settings.journal_path, &files);
    struct replay_report replayed = {.highest_seq = model->sequence};
    if (r == 0 && !info.clean) {
        r = replay_journal(model, &files, &info.uuid, &replayed, error);
    }
    if (r < 0) {
        return r;
    }

    start_rename_replaced(model);
    if (replayed.damage[0] || !start_identity_equal(&info.identity, identity)) {
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
    if (replayed.damage[0]) {
        set_aside_journal(model);
    }
    r = writeback_new(model, container, identity, &model->writeback);
    if (r < 0) {
        return error_set_errno(error, r, "cannot start the container's thread");
    }
    *taken = NULL;
    /*
     * First everything into the container, verdicts and all, marked clean: from
     * there on no journal is needed.  Then the new one, and the commit that names it.
     */
    static const struct journal_id none;
    struct journal_id old = model->instance;
    bool covered = writeback_now(model->writeback, true, error) == 0;
    if (covered) {
        remove_journal(model);
    }
    bool needed = !covered && memcmp(&old, &none, sizeof none) != 0;
    r = prepare_journal(model, &files, &info.uuid, needed ? &old : NULL, error);
    if (r < 0) {
        writeback_abandon(model->writeback);
        return r;
    }
    /* A number of its own, so that whoever waits for the container waits for this commit too. */
    model->sequence++;
    if (writeback_now(model->writeback, false, error) == 0) {
        journaling_activate(model->journaling);
    }

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
    int fd;

    if (!model || !(model->container_path = strdup(settings->container_path)) ||
        !(model->journal_path = strdup(settings->journal_path))) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    model->loop = loop;
    model->settings = *settings;
    model->settings.container_path = model->container_path;
    model->settings.journal_path = model->journal_path;
    RB_INIT(&model->drives);
    RB_INIT(&model->drive_names);
    RB_INIT(&model->bitmaps);
    RB_INIT(&model->requests);
    TAILQ_INIT(&model->requests_order);
    TAILQ_INIT(&model->removed);
    for (size_t i = 0; i < ACK_LEVELS; i++) {
        TAILQ_INIT(&model->waiters[i]);
    }
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
    model->settings.container_path = old.container_path;
    model->settings.journal_path = old.journal_path;
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

static void writeback_closed(struct model *model, int r)
{
    model->close_r = r;
    journaling_close(model->journaling, journaling_closed);
}

void model_close(struct model *model, void (*closed)(void *opaque, int r), void *opaque)
{
    model->closed = closed;
    model->closed_opaque = opaque;
    writeback_close(model->writeback, writeback_closed);
}
