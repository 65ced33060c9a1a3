/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Progress of a start or an end.  Nothing hangs on it but words and a time-out, so relaxed order
 * does: a reader may see the words of one step with the numbers of the next.
 */
#include "daemon/base/progress.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic(const char *) step = "Starting";
static atomic_uint_least64_t pieces, pieces_total, moves;

void progress_begin(const char *words, uint64_t total)
{
    atomic_store_explicit(&pieces, 0, memory_order_relaxed);
    atomic_store_explicit(&pieces_total, total, memory_order_relaxed);
    atomic_store_explicit(&step, words, memory_order_relaxed);
    progress_move();
}

void progress_pieces(uint64_t count)
{
    (void)atomic_fetch_add_explicit(&pieces, count, memory_order_relaxed);
    progress_move();
}

void progress_move(void)
{
    (void)atomic_fetch_add_explicit(&moves, 1, memory_order_relaxed);
}

uint64_t progress_moves(void)
{
    return atomic_load_explicit(&moves, memory_order_relaxed);
}

void progress_words(char *words, size_t words_bytes)
{
    const char *text = atomic_load_explicit(&step, memory_order_relaxed);
    uint64_t done = atomic_load_explicit(&pieces, memory_order_relaxed);
    uint64_t total = atomic_load_explicit(&pieces_total, memory_order_relaxed);

    if (total > 0) {
        (void)snprintf(words, words_bytes, "%s: %" PRIu64 " of %" PRIu64, text, done, total);
    } else if (done > 0) {
        (void)snprintf(words, words_bytes, "%s: %" PRIu64, text, done);
    } else {
        (void)snprintf(words, words_bytes, "%s", text);
    }
}
