# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the promise hangs on, each step taken away in turn: (what, file, text, its replacement).

The text stands exactly once in the file; a test sees to that, and to HACKING.md's table.
"""

SYNCS = [
    ("journal: a batch is synced before it counts as durable",
     "daemon/journal/write.c",
     "r = file_datasync(journal->segments[journal->active].file);",
     "r = 0;"),
    ("journal: a batch that is durable at once is written so",
     "daemon/journal/write.c",
     "    r = durable ? file_write_durably(segment",
     "    r = durable ? file_write(segment"),
    ("journal: one that others have to precede is not durable at once",
     "daemon/journal/write.c",
     "    durable &= TAILQ_EMPTY(&journal->pending);\n",
     ""),
    ("journal: new segments are synced before the container names them",
     "daemon/journal/segment.c",
     "    r = file_datasync(segment->file);",
     "    r = 0;"),
    ("container: the content is synced before the header refers to it",
     "daemon/container/commit.c",
     """    r = file_datasync(c->file);
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        c->no_space""",
     """    r = 0;
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        c->no_space"""),
    ("container: the header is synced before its commit counts",
     "daemon/container/commit.c",
     """    r = file_datasync(c->file);
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the container's header");""",
     """    r = 0;
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the container's header");"""),
    ("container: the header block is written again as read, and synced, before anything builds on it",
     "daemon/container/container.c",
     """    r = file_datasync(c->file);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the header");
    }""",
     ""),
    ("files: a new name is durable before anything relies on it",
     "daemon/base/file.c",
     """    r = files->open(files, path, FILE_CREATE, &file, error);
    if (r == 0) {""",
     """    r = files->open(files, path, FILE_CREATE, &file, error);
    if (r == 1) {"""),
    ("files: a rename is durable before anything relies on it",
     "daemon/base/file.c",
     "    return sync_directory(files, to, error);",
     "    return 0;"),
]

ORDER = [
    ("acknowledge: power-loss drives wait for durable, not for written",
     "daemon/drive/apply_mark.c",
     "return drive->durability == DURABILITY_PROCESS_CRASH ? ACK_WRITTEN : ACK_DURABLE;",
     "return ACK_WRITTEN;"),
    ("acknowledge: nothing leaves before its watermark is reached",
     "daemon/drive/ack.c",
     "    if (sequence <= ack_watermark(model, level)) {",
     "    if (sequence <= model->sequence) {"),
    ("acknowledge: what is dirty already is acknowledged when it is durable, not before",
     "daemon/drive/apply_mark.c",
     "            version <= ack_watermark(model, drive_ack_level(drive)) ? 0 : model->sequence;",
     "            0;"),
    ("journal: a failed sync takes nothing for durable",
     "daemon/journal/write.c",
     """    if (r < 0) {
        doubt(journal);
        return error_set_errno(error, r, "cannot sync journal segment %u", journal->active);
    }""",
     """    if (r < 0) {
        doubt(journal);
    }"""),
    ("journal: after a failure everything pending is written again, elsewhere",
     "daemon/journal/write.c",
     """    if (journal->state == JOURNAL_GOOD) {
        return 0;
    }""",
     "    return 0;"),
    ("journal: a segment is reused only when the container has all of it",
     "daemon/journal/write.c",
     "    return segment->last_seq <= journal->applied;",
     "    return segment->last_seq <= journal->applied || segment->position > 40960;"),
    ("journal: the active segment is synced before the other one is taken",
     "daemon/journal/write.c",
     """        r = sync_active(journal, error);
        if (r < 0) {
            return r;
        }
    }
    return segment_take""",
     """    }
    return segment_take"""),
    ("journal: a batch stays in memory until it is durable",
     "daemon/journal/write.c",
     "    journal->written = max_u64(journal->written, pending->batch.last_seq);",
     "    journal->written = max_u64(journal->written, pending->batch.last_seq);\n"
     "    journal->durable = journal->written;"),
    ("replay: goes on where the container ends",
     "daemon/journal/replay.c",
     "        .last_seq = options->applied_seq,\n        .record",
     "        .last_seq = options->applied_seq + 1,\n        .record"),
    ("replay: a torn batch does not hide those behind it",
     "daemon/journal/scan.c",
     """    case JOURNAL_BATCH_NONE:
        return 0;
    case JOURNAL_BATCH_MALFORMED:
        journal_scan_damage""",
     """    case JOURNAL_BATCH_NONE:
        *ret_bytes = source->bytes - offset;
        return 0;
    case JOURNAL_BATCH_MALFORMED:
        journal_scan_damage"""),
    ("replay: a record that is missing below the watermark is damage",
     "daemon/journal/replay.c",
     "    if (vouching && report->watermark > replay->last_seq) {",
     "    if (!vouching && report->watermark > replay->last_seq) {"),
    ("start: an unclean container is never taken without its journal",
     "daemon/drive/replay.c",
     """    } else if (!found.found) {
        (void)snprintf(ret->damage, sizeof ret->damage, "the journal is missing");
    } else if (found.damage[0]) {""",
     """    } else if (found.found && found.damage[0]) {"""),
    ("start: the old journal goes only when the container has everything",
     "daemon/drive/writeback_job.c",
     """    job->r = job->journal_duty == JOB_JOURNAL_MAKE ? make_journal(job) : 0;
""",
     """    job->r = job->journal_duty == JOB_JOURNAL_MAKE ? make_journal(job) : 0;
    end_journal(job);
"""),
    ("start: the journal is made before the container names it",
     "daemon/drive/writeback_job.c",
     """    if (job->r == 0) {
        job->r = commit(job);
    }
""",
     """    if (job->r == 0) {
        job->r = commit(job);
    }
    if (job->r == 0 && job->journal_duty == JOB_JOURNAL_MAKE) {
        journal_close(STEAL(job->journal));
        job->r = make_journal(job);
    }
"""),
    ("start: segments keep their temporary names until the container has committed them",
     "daemon/drive/writeback_job.c",
     """    return journal_create(&job->journal_files, &container, &job->instance,
                          job->journal_segment_bytes, &job->journal, &job->error);""",
     """    int r = journal_create(&job->journal_files, &container, &job->instance,
                           job->journal_segment_bytes, &job->journal, &job->error);
    return r < 0 ? r : journal_activate(job->journal, &job->error);"""),
    ("start: another boot makes process-crash drives unknown",
     "daemon/drive/judge.c",
     "    bool rebooted = memcmp(&info->boot_id, &model->boot_id, sizeof model->boot_id) != 0;\n"
     "    struct drive_bitmap",
     "    bool rebooted = false;\n    struct drive_bitmap"),
    ("start: a container that was put back to an earlier state is unknown",
     "daemon/drive/judge.c",
     "    if (replayed->stale) {",
     "    if (false) {"),
    ("end: the clean flag is the last act, and only then",
     "daemon/drive/writeback.c",
     "r = writeback_job_new(writeback->model, writeback->closing || writeback->phase == SETTLING,",
     "r = writeback_job_new(writeback->model, true,"),
    ("write-back: the container has what it says it has",
     "daemon/drive/writeback_job.c",
     "        if (view.version <= bitmap->committed && !bitmap->rewrite) {",
     "        if (view.version <= bitmap->committed + 1 && !bitmap->rewrite) {"),
    ("write-back: a failed commit covers nothing",
     "daemon/drive/writeback.c",
     """    if (job->r < 0) {
        job_failed(writeback, job->sequence, &job->error);
    } else {
        job_succeeded(writeback, job);
        ack_advance(writeback->model);
    }""",
     """    job_succeeded(writeback, job);
    ack_advance(writeback->model);"""),
    ("container: nothing that the last commit refers to is overwritten",
     "daemon/container/txn.c",
     """    if (slot->where & SLOT_FRESH) {
        cluster = slot->where & SLOT_CLUSTER;""",
     """    if (slot->where & SLOT_CLUSTER) {
        cluster = slot->where & SLOT_CLUSTER;"""),
    ("container: after a failed sync of the header neither commit's clusters are reused",
     "daemon/container/txn.c",
     "    if (!in_doubt) {\n        space_unref",
     "    if (true) {\n        space_unref"),
    ("container: a header in doubt is settled before the next commit",
     "daemon/container/commit.c",
     "    if (r == 0 && c->header_uncertain) {",
     "    if (false) {"),
    ("container: the mirror is written before the header",
     "daemon/container/commit.c",
     """    if (r == 0) {
        r = write_mirror(txn, error);
    }""",
     """    if (r == 0) {
        r = header_build(&txn->header, error);
    }"""),
    ("container: at a start the mirror is durable before the header is written again",
     "daemon/container/container.c",
     """    if (r == 0) {
        r = file_datasync(c->file);
    }
    if (r < 0) {
        return error_set_errno(error, r, "cannot refresh""",
     """    if (r < 0) {
        return error_set_errno(error, r, "cannot refresh"""),
    ("container: a new refcount table is written elsewhere",
     "daemon/container/cover.c",
     """    return txn_io_write(txn, table, bytes, run->start << rc->cluster_bits, "the refcount table",""",
     """    bytes = min_u64(bytes, rc->table_clusters << rc->cluster_bits);
    (void)txn_io_write(txn, table, bytes, rc->table_offset, "the refcount table", error);
    bytes = run->count << rc->cluster_bits;
    return txn_io_write(txn, table, bytes, run->start << rc->cluster_bits, "the refcount table","""),
    ("container: refcounts are raised before anything refers to the clusters",
     "daemon/container/commit.c",
     """    r = refcounts_write_pending(&c->refcounts, c->file, &c->space, txn->buffer, true,
                                &txn->stats.bytes_written);
    if (r < 0) {
        return error_set_errno(error, r, "cannot raise refcounts");
    }""",
     ""),
    ("writers: what begins anew begins with unsettled ranges",
     "daemon/drive/carry.c",
     "        bitmap_set(prepared->bits, range.offset, range.length, record->sequence);",
     ""),
    ("writers: what is cleared keeps unsettled ranges",
     "daemon/drive/carry.c",
     "        bitmap_set(prepared->changing->bits, range.offset, range.length, record->sequence);",
     ""),
    ("writers: after a crash nobody's unsettled marks are known",
     "daemon/drive/replay.c",
     "            writer->unaccounted |= unaccounted;",
     "            writer->unaccounted = false;"),
    ("writers: a mark that a disabled bitmap skips is its gap",
     "daemon/drive/apply_mark.c",
     "                drive_bitmap_set_recording(bitmap, false, true);",
     "                drive_bitmap_set_recording(bitmap, false, false);"),
    ("process-crash: a failed sync is a verdict",
     "daemon/drive/journaling.c",
     "        distrust_written(journaling);",
     "        (void)distrust_written;"),
    ("process-crash: so is one of a segment that is left",
     "daemon/drive/journaling.c",
     "        visit->r < 0 && visit->r != -EAGAIN && journal_sync_failed",
     "        (!batch || visit->appended) && visit->r < 0 && journal_sync_failed"),
]

HISTORY = [
    ("checkpoints: what begins anew begins with unsettled ranges",
     "daemon/drive/apply_checkpoint.c",
     "    r = carry_any(model, record, prepared, error);",
     "    r = 0;"),
    ("checkpoints: a deleted one's bits go into the elder",
     "daemon/drive/apply_checkpoint.c",
     """        bitmap_merge_reserved(prepared->changing->bits, prepared->removed_bits, record->sequence);""",
     ""),
    ("checkpoints: in a transaction, too, a deleted one's bits go into the elder",
     "daemon/drive/apply_checkpoint.c",
     "        r = record_merge(record, victim->bits, prepared, error);",
     """        r = prepared->bits ? 0 : record_merge(record, victim->bits, prepared, error);"""),
    ("checkpoints: a deleted one's validity goes into the elder's",
     "daemon/drive/apply_checkpoint.c",
     "    if (victim->validity > elder->validity) {",
     "    if (false) {"),
    ("checkpoints: one is sealed by the record that makes the next",
     "daemon/drive/apply_checkpoint.c",
     """    if (prepared->elder) {
        drive_bitmap_set_recording(prepared->elder, false, false);""",
     """    if (prepared->elder && !model->replaying) {
        drive_bitmap_set_recording(prepared->elder, false, false);"""),
    ("sealed bits leave memory only when the container has them",
     "daemon/drive/sealed.c",
     """    return bitmap->stored && !bitmap->rewrite && bitmap->changed <= bitmap->committed &&
           bitmap_version(bitmap->bits) <= bitmap->committed;""",
     "    return bitmap->stored;"),
    ("sealed bits: a replay reads what it needs",
     "daemon/drive/sealed.c",
     """        (void)drive_bitmap_swap_bits(bitmap, bits);
    }
    return r;""",
     """        bitmap_clear_all(bits, 0);
        (void)drive_bitmap_swap_bits(bitmap, bits);
    }
    return r;"""),
    ("sealed bits: a read that fails is no damage",
     "daemon/container/container.c",
     """        return error_set_errno(
            error, r, "bitmap""",
     """        entry_damage(e, "it cannot be read");
        return error_set_errno(
            error, r, "bitmap"""),
    ("sealed bits: another size reaches those in the container",
     "daemon/drive/apply_drive.c",
     "        r = bitmap_resized(bitmap->bits, record->size, record->sequence,",
     "        r = bitmap_resized(bitmap->bits, record->size,\n"
     "                           drive_bitmap_is_sealed(bitmap) ? 0 : record->sequence,"),
    ("maps: all bitmaps from the checkpoint on are in the union",
     "daemon/drive/union.c",
     "            work->parts[work->parts_count++] = (struct union_part){part->id, part->granularity};",
     "            continue;"),
    ("transactions: all parts are in one record of the journal",
     "daemon/drive/transaction.c",
     "        .nested_bytes = (uint32_t)transaction->used,",
     "        .nested_bytes = 4 + load_le32(transaction->bytes),"),
    ("transactions: what is undone leaves no trace",
     "daemon/drive/transaction.c",
     "        record_undo_part(model, part->type, &part->prepared);",
     """        if (part->type != RECORD_BITMAP_CLEAR) {
            record_undo_part(model, part->type, &part->prepared);
        }"""),
    ("writers: one that goes on without us makes the drive unknown when it is lost",
     "daemon/drive/apply_writer.c",
     "    writer_lose_track(prepared->drive, writer, record->sequence);",
     ""),
    ("writers: one that goes on without us makes the drive unknown when we crash",
     "daemon/drive/judge.c",
     """            if (!writer->continues || ended) {
                continue;""",
     """            if (true) {
                continue;"""),
    ("writers: what begins while one goes on without us is unknown",
     "daemon/drive/carry.c",
     "    if (record->doubtful) {",
     "    if (false) {"),
    ("writers: only a reboot ends one that was lost",
     "daemon/drive/judge.c",
     "            writer->rebooted |= rebooted;",
     "            writer->rebooted = true;"),
    ("writers: evidence is void as soon as one attaches",
     "daemon/drive/apply_writer.c",
     """    free(drive->evidence);
    drive->evidence = NULL;
    if (prepared->identity""",
     """    if (prepared->identity"""),
    ("verdicts: one for which there was no room is the next record",
     "daemon/drive/record.c",
     "    if (!model->unrecorded) {",
     "    if (true) {"),
]

MEMORY = [
    ("memory journal: it is replayed behind the journal",
     "daemon/drive/replay.c",
     "    if (r == 0 && found.memory && !found.damage[0]) {",
     "    if (false) {"),
    ("memory journal: without it process-crash drives are unknown",
     "daemon/drive/judge.c",
     "        if ((rebooted || replayed->memory_damage[0]) &&",
     "        if (rebooted &&"),
    ("memory journal: it keeps what the journal has not written",
     "daemon/drive/journaling.c",
     "journal_covered(journaling->memory, max_u64(journaling->written, journaling->covered));",
     "journal_covered(journaling->memory, journaling->model->sequence);"),
    ("memory journal: what is in it counts as written, and no more",
     "daemon/drive/journaling.c",
     "        journaling->memory_written = batch->first_seq + batch->count - 1;",
     "        journaling->memory_written = journaling->model->sequence;"),
]

MUTATIONS = SYNCS + ORDER + HISTORY + MEMORY
