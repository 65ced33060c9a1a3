/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_PROGRESS_H
#define BITMAPD_DAEMON_BASE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

/*
 * How far a long piece of work has come, for whoever asks from another thread: the service manager
 * is told what a start or an end is doing, and gives it more time as long as it moves.  One for the
 * process.  All calls are thread-safe, and cheap enough for every call of I/O.
 */

/* @words (a literal) is what begins now, as in "Replaying the journal"; @total: of its pieces, or 0
 * when it has none that are worth telling. */
void progress_begin(const char *words, uint64_t total);

/* So many more pieces are done. */
void progress_pieces(uint64_t count);

/* Something has moved: a record was applied, a call of I/O has returned. */
void progress_move(void);

/* Rises with every call of the others. */
uint64_t progress_moves(void);

/* "Replaying the journal: 17 of 30"; always terminated. */
void progress_words(char *words, size_t words_bytes);

#endif
