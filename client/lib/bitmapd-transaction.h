/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TRANSACTION_H
#define BITMAPD_TRANSACTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/*
 * Transactions of libbitmapd.  <bitmapd.h> says what holds for all of the
 * library: errors, handles, request ids.
 *
 * Several changes at the same moment, or none of them: either all survive a
 * crash or none does, and no mark comes in between.
 *
 *     bitmapd_transaction *transaction = bitmapd_transaction_new();
 *
 *     bitmapd_transaction_bitmap_disable(transaction, "a/monday");
 *     bitmapd_transaction_bitmap_create(transaction, "a/tuesday", 0, false);
 *     r = bitmapd_transaction_commit(handle, transaction, NULL);
 *     bitmapd_transaction_free(transaction);
 *
 * Operations are done in the order in which they were added, and each sees the
 * effect of those before it.  Adding one is local: it copies its arguments and
 * returns 0; -EINVAL for an argument that no request could have; -ENOMEM; or
 * -EMSGSIZE when it would pass BITMAPD_TRANSACTION_OPERATIONS_MAX or what fits
 * a frame of 1 MiB.  Then the transaction is as it was before, and
 * bitmapd_transaction_error() has the reason in words.
 *
 * A transaction belongs to no handle.  It may be used by one thread at a time.
 */
typedef struct bitmapd_transaction bitmapd_transaction;
struct bitmapd; /* the handle of <bitmapd.h> */

#define BITMAPD_TRANSACTION_OPERATIONS_MAX 65535u

/* An empty one; NULL when memory is out. */
bitmapd_transaction *bitmapd_transaction_new(void);
/* Takes NULL. */
void bitmapd_transaction_free(bitmapd_transaction *transaction);
/* So many operations were added. */
size_t bitmapd_transaction_count(const bitmapd_transaction *transaction);
/* Why the last operation was not added, "" when it was.  Borrowed until the next call. */
const char *bitmapd_transaction_error(const bitmapd_transaction *transaction);

/* Arguments as of the calls of the same name. */
int bitmapd_transaction_bitmap_create(bitmapd_transaction *transaction, const char *bitmap,
                                      uint32_t granularity, bool disabled);
int bitmapd_transaction_bitmap_delete(bitmapd_transaction *transaction, const char *bitmap);
int bitmapd_transaction_bitmap_enable(bitmapd_transaction *transaction, const char *bitmap);
int bitmapd_transaction_bitmap_disable(bitmapd_transaction *transaction, const char *bitmap);
int bitmapd_transaction_bitmap_rename(bitmapd_transaction *transaction, const char *bitmap,
                                      const char *new_name);
int bitmapd_transaction_bitmap_set(bitmapd_transaction *transaction, const char *bitmap,
                                   uint64_t offset, uint64_t length);
int bitmapd_transaction_bitmap_clear(bitmapd_transaction *transaction, const char *bitmap,
                                     uint64_t offset, uint64_t length);
int bitmapd_transaction_bitmap_clear_all(bitmapd_transaction *transaction, const char *bitmap);
int bitmapd_transaction_bitmap_merge(bitmapd_transaction *transaction, const char *target,
                                     const char *const *sources, size_t count);
int bitmapd_transaction_checkpoint_create(bitmapd_transaction *transaction, const char *name,
                                          const char *const *drives, size_t count);
int bitmapd_transaction_checkpoint_delete(bitmapd_transaction *transaction, const char *drive,
                                          const char *checkpoint);

/*
 * Does them.  @ret_sequence (may be NULL) gets the sequence of the change, and
 * of the checkpoints that it made.  One request with one request id, so all
 * that is said above of -ECONNABORTED holds for the whole: commit the same
 * transaction again under the same id to learn what became of it.
 *
 * When an operation cannot be done the result is what it would be by itself,
 * none was done, and bitmapd_transaction_failed() tells which it was.
 * -EINVAL for an empty transaction, -EMSGSIZE when the daemon takes no frame
 * of its size; nothing was sent then.  The transaction stays as it is whatever
 * the result.
 */
int bitmapd_transaction_commit(struct bitmapd *handle, bitmapd_transaction *transaction,
                               uint64_t *ret_sequence);
/*
 * Whether the last commit failed because of one of the operations, and the
 * position of that one, from 0 (may be NULL).
 */
bool bitmapd_transaction_failed(const bitmapd_transaction *transaction, size_t *ret_position);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
