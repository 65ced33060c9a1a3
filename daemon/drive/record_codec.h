/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_RECORD_CODEC_H
#define BITMAPD_DAEMON_DRIVE_RECORD_CODEC_H

#include "daemon/drive/record.h"
#include "proto/base/error.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Records as the journal keeps them, little endian:
 *
 *     u8  type, enum record_type
 *     u8  flags (bit 0 force, bit 1 disabled, bit 2 carry whole, bit 3 has a request id, bit 4
 *         continues, bit 5 returning, bit 6 doubtful, bit 7 has identity and evidence)
 *     u8  durability
 *     u8  untracked
 *     u32 granularity
 *     u64 drive, u64 bitmap, u64 size
 *     16 bytes request id, when flagged
 *     u16 length and bytes of name, then of path, then, when flagged, of identity and of evidence
 *     u32 count of ranges, then (u64 offset, u64 length) each
 *     u32 count of carried ranges, then the same
 *     u32 count of sources, then u64 each
 *     of a checkpoint-create: 16 bytes UUID, u64 created (ns)
 *     of a transaction: its records, each u32 length and bytes, to the end
 *
 * The sequence is the journal's to keep.  Numbers of types are never reused.
 */

/* Bytes that record_encode() writes. */
size_t record_encoded_bytes(const struct record *record);
void record_encode(const struct record *record, uint8_t *buffer);

/* Arrays of a decoded record; freed by record_decoded_deinit(). */
struct record_decoded {
    struct record record; /* name and path point into the bytes */
    struct range *ranges;
    struct range *carried;
    uint64_t *sources;
};

/* -EBADMSG names the field; -ENOMEM. */
int record_decode(const uint8_t *bytes, size_t length, struct record_decoded *ret,
                  struct error *error);
void record_decoded_deinit(struct record_decoded *decoded);

/*
 * What most records are, without any allocation: a short mark of 1 to @ranges_max ranges.
 * Returns how many; 0: another record, or none, and nothing is stored.
 */
uint32_t record_decode_mark(const uint8_t *bytes, size_t length, uint64_t *ret_drive,
                            struct range *ret_ranges, uint32_t ranges_max);

#endif
