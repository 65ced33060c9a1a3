/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Acknowledgements: the one place where a reply that tells of a change is let
 * go.  There are three watermarks, each the end of a contiguous prefix of
 * sequences:
 *
 *     written    in the journal's file: outlives the process
 *     durable    on stable storage, in the journal or in the container
 *     container  in the container
 *
 * What the container has is durable, and what is durable is written.
 *
 * Invariant: the waiters of a level stand in the order of their sequences.
 */
#include "daemon/drive/journaling.h"

#include <assert.h>

uint64_t ack_watermark(const struct model *model, enum ack_level level)
{
    uint64_t mark = writeback_applied_seq(model->writeback);

    if (level != ACK_CONTAINER) {
        uint64_t durable = journaling_durable(model->journaling);
        mark = durable > mark ? durable : mark;
        if (level == ACK_WRITTEN) {
            uint64_t written = journaling_written(model->journaling);
            mark = written > mark ? written : mark;
        }
    }
    return mark;
}

void model_wait(struct model *model, uint64_t sequence, enum ack_level level,
                struct model_waiter *waiter)
{
    struct waiter_list *list = &model->waiters[level];

    assert(sequence <= model->sequence);
    waiter->sequence = sequence;
    waiter->level = level;
    if (sequence <= ack_watermark(model, level)) {
        waiter->done(waiter, 0);
        return;
    }
    if (level == ACK_DURABLE) {
        journaling_hurry(model->journaling);
    }
    struct model_waiter *before = TAILQ_LAST(list, waiter_list);
    while (before && before->sequence > sequence) {
        before = TAILQ_PREV(before, waiter_list, entry);
    }
    if (before) {
        TAILQ_INSERT_AFTER(list, before, waiter, entry);
    } else {
        TAILQ_INSERT_HEAD(list, waiter, entry);
    }
    if (level == ACK_CONTAINER) {
        writeback_start(model->writeback);
    }
}

void model_wait_cancel(struct model *model, struct model_waiter *waiter)
{
    TAILQ_REMOVE(&model->waiters[waiter->level], waiter, entry);
}

static void complete(struct model *model, enum ack_level level, uint64_t sequence, int r)
{
    struct model_waiter *waiter;
    while ((waiter = TAILQ_FIRST(&model->waiters[level])) && waiter->sequence <= sequence) {
        TAILQ_REMOVE(&model->waiters[level], waiter, entry);
        waiter->done(waiter, r);
    }
}

void ack_advance(struct model *model)
{
    for (enum ack_level level = 0; level < ACK_LEVELS; level++) {
        complete(model, level, ack_watermark(model, level), 0);
    }
}

void ack_fail(struct model *model, enum ack_level level, uint64_t sequence)
{
    complete(model, level, sequence, -EINPROGRESS);
}
