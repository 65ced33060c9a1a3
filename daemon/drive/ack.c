/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Acknowledgements: the one place where a reply that tells of a change is let
 * go.  There are two watermarks.  Memory is reached as soon as a record is
 * applied; it is enough for marks, because a start without the clean flag
 * makes every bitmap that was recording unknown.  The container's is the
 * sequence of the last write-back that is durable.
 *
 * Invariant: waiters stand in the order of their sequences, which is the
 * order of model_wait() calls with a rising current sequence or an insertion
 * behind all that wait for less.
 */
#include "daemon/drive/internal.h"

#include <assert.h>

void model_wait(struct model *model, uint64_t sequence, enum record_level level,
                struct model_waiter *waiter)
{
    assert(sequence <= model->sequence);
    waiter->sequence = sequence;
    if (level == RECORD_LEVEL_MEMORY || sequence <= writeback_applied_seq(model->writeback)) {
        waiter->sequence = 0;
        waiter->done(waiter, 0);
        return;
    }
    struct model_waiter *before = TAILQ_LAST(&model->waiters, waiter_list);
    while (before && before->sequence > sequence) {
        before = TAILQ_PREV(before, waiter_list, entry);
    }
    if (before) {
        TAILQ_INSERT_AFTER(&model->waiters, before, waiter, entry);
    } else {
        TAILQ_INSERT_HEAD(&model->waiters, waiter, entry);
    }
    writeback_start(model->writeback);
}

void model_wait_cancel(struct model *model, struct model_waiter *waiter)
{
    TAILQ_REMOVE(&model->waiters, waiter, entry);
}

void ack_complete(struct model *model, uint64_t sequence, int r)
{
    struct model_waiter *waiter;
    while ((waiter = TAILQ_FIRST(&model->waiters)) && waiter->sequence <= sequence) {
        TAILQ_REMOVE(&model->waiters, waiter, entry);
        waiter->done(waiter, r);
    }
}
