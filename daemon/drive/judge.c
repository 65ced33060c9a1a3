/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Step 4 of the start: the verdicts.
 *
 * A container that was not closed cleanly and whose journal is missing or
 * damaged makes every bitmap unknown.  Another boot does so to what recorded
 * marks that outlive a process only, and what did not record may have skipped one.  A container
 * that is not the file it says it is (copied or restored) may be older than the drives: everything
 * becomes unknown unless the operator vouches for it.  One that is older than its journal is,
 * whatever anybody says.
 */
#include "daemon/drive/start.h"

#include "daemon/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Writers may have marked since what was loaded, and still be about to write. */
static void doubt_writers(struct model *model)
{
    struct drive *drive;
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        struct writer *writer;
        TAILQ_FOREACH (writer, &drive->writers, entry) {
            writer->unaccounted = true;
        }
    }
}

/*
 * Who goes on without us has done so while nobody was here; and another boot has ended every
 * writer, though what it had not settled is still carried once.
 */
static void judge_writers(struct model *model, bool rebooted, uint64_t sequence)
{
    struct drive *drive;
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        struct writer *writer;
        TAILQ_FOREACH (writer, &drive->writers, entry) {
            bool ended = writer->rebooted; /* it was told of then */
            writer->rebooted |= rebooted;
            if (!writer->continues || ended) {
                continue;
            }
            char reason[MODEL_REASON_BYTES_MAX + 1];
            (void)snprintf(reason, sizeof reason,
                           "bitmapd was not there, and writer '%.80s' goes on without it",
                           writer->token);
            struct drive_bitmap *bitmap;
            TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
                drive_bitmap_distrust(bitmap, sequence, reason);
            }
        }
    }
}

static void judge_unclean(struct model *model, const struct container_info *info,
                          const struct replay_report *replayed, uint64_t sequence)
{
    bool rebooted = memcmp(&info->boot_id, &model->boot_id, sizeof model->boot_id) != 0;
    struct drive_bitmap *bitmap;

    doubt_writers(model);
    if (replayed->damage[0]) {
        /* Any change may be among those that are lost: also to what does not record. */
        char reason[MODEL_REASON_BYTES_MAX + 1];
        (void)snprintf(reason, sizeof reason, "bitmapd did not stop cleanly, and %.150s",
                       replayed->damage);
        start_unknown_all(model, sequence, reason);
    }
    char reason[MODEL_REASON_BYTES_MAX + 1] =
        "the host went down, and the drive's durability is process-crash";
    if (!rebooted && replayed->memory_damage[0]) {
        (void)snprintf(reason, sizeof reason,
                       "bitmapd did not stop cleanly, the drive's durability is process-crash, and "
                       "%.100s",
                       replayed->memory_damage);
    }
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        if ((rebooted || replayed->memory_damage[0]) &&
            bitmap->drive->durability == DURABILITY_PROCESS_CRASH) {
            drive_bitmap_distrust(bitmap, sequence, reason);
        }
    }
}

bool start_identity_equal(const struct file_identity *a, const struct file_identity *b)
{
    return a->inode == b->inode && a->birth_time_ns == b->birth_time_ns;
}

static const char stale[] = "the container was put back to an earlier state: the journal beside it "
                            "belongs to a later one";

void start_judge(struct model *model, const struct container_info *info,
                 const struct replay_report *replayed, const struct file_identity *identity,
                 unsigned flags, uint64_t sequence)
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
    if (info->lost_bitmaps > 0) {
        log_error("container %s: %" PRIu32
                  " bitmaps are lost with their names, and drives that had "
                  "no others; whoever asks for them is told that there are none",
                  model->container_path, info->lost_bitmaps);
    }
    judge_writers(model, memcmp(&info->boot_id, &model->boot_id, sizeof model->boot_id) != 0,
                  sequence);
    if (!info->clean) {
        judge_unclean(model, info, replayed, sequence);
    }
    if (!start_identity_equal(&info->identity, identity)) {
        if (flags & MODEL_ACCEPT_COPY) {
            log_notice("container %s: accepted as a copy", model->container_path);
        } else {
            start_unknown_all(model, sequence, "the container was copied or restored");
            doubt_writers(model);
        }
    }
    if (replayed->stale) {
        log_error("container %s: %s", model->container_path, stale);
        start_unknown_all(model, sequence, stale);
        doubt_writers(model);
    }
    if (flags & MODEL_DISTRUST) {
        start_unknown_all(model, sequence, "started with --distrust");
    }
}

#define REPORT_NAMED 3u /* unknown bitmaps; the history has all */
/* Of one: the name, the reason, and what is between. */
#define REPORT_NAMED_BYTES (BITMAP_FULL_NAME_BYTES + MODEL_REASON_BYTES_MAX + 8)

/* How many are unknown; the first of them with their reasons into @text. */
static uint32_t name_unknown(struct model *model, char *text, size_t size)
{
    struct drive_bitmap *bitmap;
    uint32_t count = 0;

    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        if (bitmap->validity != VALIDITY_UNKNOWN) {
            continue;
        }
        size_t used = strlen(text);
        if (count < REPORT_NAMED) {
            (void)snprintf(text + used, size - used, "; %s/%s: %s", bitmap->drive->name,
                           bitmap->name, bitmap->reason);
        } else if (count == REPORT_NAMED) {
            (void)snprintf(text + used, size - used, "; …");
        }
        count++;
        history_note(model->history, model->sequence, "unknown", bitmap->drive->name, bitmap->name,
                     NULL, bitmap->reason);
    }
    return count;
}

void start_report(struct model *model, const struct container_info *info,
                  const struct replay_report *replayed, bool made)
{
    char journal[160] = "";
    if (!info->clean) {
        (void)snprintf(journal, sizeof journal,
                       ", %" PRIu64 " journaled changes replayed (%" PRIu64
                       " ranges marked, %" PRIu64 " granules made dirty) in %" PRIu64 " ms",
                       replayed->records, replayed->marks, replayed->dirtied,
                       replayed->elapsed_ns / 1000000);
    }
    char unknown[(REPORT_NAMED + 1) * REPORT_NAMED_BYTES] = "", lost[32] = "";
    uint32_t count = name_unknown(model, unknown, sizeof unknown);
    if (info->lost_bitmaps > 0) {
        (void)snprintf(lost, sizeof lost, ", %" PRIu32 " lost", info->lost_bitmaps);
    }
    (void)snprintf(model->start_report, sizeof model->start_report,
                   "%s%s%s, %u drives, %u bitmaps, %u unknown%s%s",
                   made          ? "new container"
                   : info->clean ? "clean container"
                                 : "container was not closed cleanly",
                   /* Somebody may miss what that container had. */
                   replayed->foreign ? ", another container's journal set aside" : "", journal,
                   model->drives_count, model->bitmaps_count, count, lost, unknown);
    if (count > 0 || info->lost_bitmaps > 0) {
        log_event(LOG_LEVEL_WARNING, LOG_UNKNOWN, NULL, NULL, "%s", model->start_report);
    } else if (replayed->foreign) {
        log_warning("%s", model->start_report);
    } else {
        log_info("%s", model->start_report);
    }
    history_note(model->history, model->sequence, "start", NULL, NULL, NULL, model->start_report);
}
