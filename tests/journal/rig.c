/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The small daemon of rig.h.
 *
 * What it holds the journal to:
 *   - durable never falls, and written is never below it;
 *   - after a loss of power all up to the durable promise is replayed, after a
 *     kill all up to the written one as well;
 *   - nothing is replayed that was never given;
 *   - none of this leaves damage.
 */
#include "tests/journal/rig.h"

#include "proto/base/checked.h"

#include <string.h>

void rig_init(struct rig *rig, uint64_t seed)
{
    memset(rig, 0, sizeof *rig);
    rig->random = seed;
    rig->dir = simdir_new(seed);
    rig->next = 1 + simdisk_random(&rig->random) % 1000;
    rig->applied = rig->next - 1;
}

void rig_deinit(struct rig *rig)
{
    journal_close(rig->journal);
    simdir_free(rig->dir);
}

static uint64_t upto(struct rig *rig, uint64_t n)
{
    return simdisk_random(&rig->random) % n;
}

static void note_promises(struct rig *rig)
{
    uint64_t written = journal_written(rig->journal), durable = journal_durable(rig->journal);

    assert_true(durable >= rig->durable);
    assert_true(written >= durable);
    assert_true(rig->next == 0 || durable < rig->next);
    assert_true(journal_fill(rig->journal) <= 1000);
    /* A kill happens between two system calls: the one that found the power gone does not count. */
    if (!simdir_stopped(rig->dir)) {
        rig->written = written;
        rig->durable = durable;
    }
}

/* What a replay of @dir has to find. */
static int judge(const struct rig *rig, struct simdir *dir, uint64_t promised,
                 struct journal_replay_report *ret)
{
    struct error error;
    int r = test_replay(dir, rig->named, rig->applied, ret, &error);

    if (r < 0) {
        assert_true(simdir_failed(dir) || simdir_stopped(dir));
        return r;
    }
    if (!ret->found || ret->damage[0] != '\0') {
        fail_msg("after a crash: found %d, damage \"%s\"", ret->found, ret->damage);
    }
    if (ret->last_seq < promised || ret->last_seq >= rig->next) {
        fail_msg("after a crash: replayed up to %" PRIu64 ", promised %" PRIu64 ", given %" PRIu64,
                 ret->last_seq, promised, rig->next - 1);
    }
    assert_true(ret->watermark <= rig->durable);
    assert_true(ret->highest_seq < rig->next);
    return 0;
}

static uint64_t promised_after(const struct rig *rig, enum simdir_fate fate)
{
    return simdir_fate_is_kill(fate) ? max_u64(rig->written, rig->durable) : rig->durable;
}

void rig_judge_crash(struct rig *rig, enum simdir_fate fate, uint64_t seed)
{
    CLEANUP(simdir_freep) struct simdir *after = simdir_crash(rig->dir, fate, seed);
    struct journal_replay_report report;

    if (rig->named) {
        assert_int_equal(judge(rig, after, promised_after(rig, fate), &report), 0);
    }
}

void rig_crash(struct rig *rig, enum simdir_fate fate, uint64_t seed)
{
    struct simdir *after = simdir_crash(rig->dir, fate, seed);

    journal_close(rig->journal);
    rig->journal = NULL;
    rig->durable = promised_after(rig, fate);
    rig->written = rig->durable;
    rig->again = 0;
    simdir_free(rig->dir);
    rig->dir = after;
}

int rig_start(struct rig *rig)
{
    struct journal_files files = test_files(rig->dir);
    struct journal_id container = test_id(TEST_CONTAINER), instance;
    struct journal_replay_report report = {.highest_seq = rig->applied, .last_seq = rig->applied};
    struct error error;
    int r;

    journal_close(rig->journal);
    rig->journal = NULL;
    if (rig->named) {
        r = judge(rig, rig->dir, rig->durable, &report);
        if (r < 0) {
            return r;
        }
    }
    /* The container has everything, and names no journal until it is made. */
    rig->applied = max_u64(rig->applied, report.highest_seq);
    rig->next = rig->applied + 1;
    rig->durable = rig->written = rig->applied;
    rig->named = 0;
    r = journal_remove(&files, &error);
    if (r < 0) {
        return r;
    }
    rig->number++;
    instance = test_id(rig->number);
    r = journal_create(&files, &container, &instance, TEST_SEGMENT_BYTES, &rig->journal, &error);
    if (r < 0) {
        assert_null(rig->journal);
        return r;
    }
    rig->named = rig->number;
    rig->again = 0;
    if (upto(rig, 2)) {
        journal_covered(rig->journal, rig->applied);
    }
    rig->written = rig->durable = journal_durable(rig->journal);
    while ((r = journal_activate(rig->journal, &error)) < 0 && !simdir_stopped(rig->dir)) {
        if (upto(rig, 4) == 0) {
            break; /* it works without */
        }
    }
    return 0;
}

static void cover(struct rig *rig)
{
    uint64_t span = rig->next - 1 - rig->applied;
    uint64_t by = upto(rig, 3) ? span : upto(rig, span + 1);

    rig->applied += by;
    journal_covered(rig->journal, rig->applied);
}

/* The container gets all, as a full journal demands. */
static void cover_all(struct rig *rig)
{
    rig->applied = rig->next - 1;
    journal_covered(rig->journal, rig->applied);
}

static void append(struct rig *rig)
{
    static const uint32_t counts[] = {1, 1, 2, 3, 8, 17, 40, 64};
    unsigned active = rig->journal->active;
    uint32_t count = rig->again;
    uint64_t first = rig->next - count;
    struct error error;
    int r;

    if (count == 0) {
        count = counts[upto(rig, 8)];
        rig->next += count; /* memory has it, whatever the journal says */
    }
    r = test_append_as(rig->journal, rig->number, first, count, upto(rig, 2) == 1, &error);
    rig->again = r == 0 ? 0 : count;
    rig->wraps += active != rig->journal->active;
    if (r == -EAGAIN) {
        /* With or without the batch that did not fit. */
        if (upto(rig, 2)) {
            cover_all(rig);
        } else {
            rig->applied = max_u64(rig->applied, first - 1);
            journal_covered(rig->journal, rig->applied);
        }
        if (rig->applied == rig->next - 1 && upto(rig, 2)) {
            rig->again = 0;
        }
    } else if (r < 0) {
        assert_true(simdir_stopped(rig->dir) || simdir_failed(rig->dir));
        rig->failures++;
    }
}

void rig_run(struct rig *rig, unsigned steps)
{
    struct error error;
    int r;

    for (unsigned i = 0; i < steps && !simdir_stopped(rig->dir); i++) {
        switch (upto(rig, rig->patient ? 40 : 10)) {
        case 0:
            cover(rig);
            break;
        case 1:
        case 2:
        case 3:
        case 4:
            r = journal_sync(rig->journal, &error);
            if (r == 0) {
                /* All that was appended; a batch to be repeated is not. */
                assert_true(journal_durable(rig->journal) >= rig->next - 1 - rig->again ||
                            rig->journal->last_seq == 0);
            } else if (r == -EAGAIN) {
                cover_all(rig);
            } else {
                assert_true(simdir_stopped(rig->dir) || simdir_failed(rig->dir));
                rig->failures++;
            }
            break;
        default:
            append(rig);
        }
        note_promises(rig);
    }
}
