/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_JOURNAL_FORMAT_H
#define BITMAPD_DAEMON_JOURNAL_FORMAT_H

/*
 * The bytes of a journal (normative).
 *
 * A journal is two segment files of one fixed length, a multiple of 4096
 * bytes.  Block 0 (a block is 4096 bytes at a multiple of 4096) of a segment
 * is its header; batches follow, each in blocks of its own.  All numbers are
 * little endian.  CRCs are CRC32C with the CRC's own field taken as zero.
 *
 * Segment header (the whole block):
 *
 *     0  u8[8]   magic "bmapdjnl"
 *     8  u32     version: 3; a segment of version 1 has no flags
 *    12  u32     CRC of the 4096 bytes
 *    16  u8[16]  UUID of the container
 *    32  u8[16]  journal instance
 *    48  u64     length of the segment in bytes, with this block
 *    56  u32     index of the segment: 0 or 1
 *    60  u32     flags: bit 0 MEMORY, there is a memory journal beside this one; others are 0
 *    64  zero up to byte 4096
 *
 * It is written once, together with zeros over the rest of the file, synced
 * before the container names the instance, and never written again: reuse of
 * a segment leaves it alone.  So no crash can hurt it, and a segment of the named
 * instance that is missing, shorter than its header says, or without a sound
 * header is damage.
 *
 * A memory journal is one of the same container and instance, in the same format, in files that
 * outlive the process and not the host.  It has records that this one does not have yet, on which
 * acknowledgements at "written" rest; in between it may skip what this one has.  It is replayed
 * behind this one, from where this one ends.  Durable, in its watermarks, is what was written here.
 *
 * Batch:
 *
 *     0  u8[8]   magic "bmapdbat"
 *     8  u32     version: 1
 *    12  u32     CRC of bytes 0 to 79
 *    16  u8[16]  UUID of the container
 *    32  u8[16]  journal instance
 *    48  u64     sequence of the first record, >= 1; that of the last is < 2^63
 *    56  u32     records, >= 1; their sequences rise by one
 *    60  u32     bytes of all records with their framing, 4 to 4 MiB
 *    64  u64     durable watermark: when the batch was made, all records up to this sequence
 *                were on stable storage, here or in the container; less than the first sequence
 *    72  u32     CRC of the records with their framing
 *    76  u32     zero
 *    80  records, each a u32 length and so many bytes, without gaps
 *        padding to the end of the block: written as zeros, never looked at
 *
 * This batch counts, when
 *   - it begins at a block other than block 0, not inside a batch that counts;
 *   - magic and header CRC are right and UUID and instance are ours (or else: nothing is there);
 *   - its CRC over the records is right (or else: it is torn, which is as good as nothing).
 * A batch for which this holds and which breaks another rule above, or reaches
 * over the segment's end, was not written by a daemon of this version: damage.
 * A torn batch does not hide the ones behind it: each block is looked at.
 * Records cannot pass for a batch: they would have to hold the 128 random bits
 * of the instance, which no client is ever told.
 *
 * What the batches say together:
 *   - A sequence means the same record wherever it stands.  A batch that a failed write or sync
 *     left in doubt is written again, byte for byte, elsewhere; copies are told by equal first
 *     sequence, count, length and CRC of the records.  Two batches that overlap above applied_seq
 *     and are not copies are damage.
 *   - Replay goes from applied_seq + 1 on without gaps and ends at the first.  Records that are
 *     missing up to the highest watermark in any batch that counts are damage; above it they never
 *     were acknowledged, or are the last ones that were (a watermark is found only in a later
 *     batch, so damage to the last durable batch looks like a torn write).
 *   - Batches left over from before a segment was reused still count, and are harmless: a segment
 *     is reused when all its records are in the container, durably, so every later start finds an
 *     applied_seq at or above theirs and skips them; their watermarks stay true.
 *
 * Versions: bytes 0 to 47 of both headers, and what their CRCs cover, are the
 * same in all versions.  A reader refuses a segment of its instance, or a batch in
 * it, whose header CRC is right and whose version is greater than its own.  A
 * version of 0 is damage.
 */
#define JOURNAL_BATCH_VERSION   1u
#define JOURNAL_SEGMENT_VERSION 3u /* 2: flags, packed marks; 3: short marks (record_codec.c) */

#define SEGMENT_MAGIC           0
#define SEGMENT_VERSION         8
#define SEGMENT_CRC             12
#define SEGMENT_CONTAINER       16
#define SEGMENT_INSTANCE        32
#define SEGMENT_LENGTH          48
#define SEGMENT_INDEX           56
#define SEGMENT_FLAGS           60
#define SEGMENT_FLAG_MEMORY     (1u << 0)

#define BATCH_MAGIC             0
#define BATCH_VERSION           8
#define BATCH_CRC               12
#define BATCH_CONTAINER         16
#define BATCH_INSTANCE          32
#define BATCH_FIRST_SEQ         48
#define BATCH_COUNT             56
#define BATCH_LENGTH            60
#define BATCH_WATERMARK         64
#define BATCH_RECORDS_CRC       72
#define BATCH_ZERO              76
#define BATCH_HEADER_BYTES      80u

#define SEGMENT_MAGIC_VALUE     "bmapdjnl" /* 8 bytes, without the NUL */
#define BATCH_MAGIC_VALUE       "bmapdbat"
#define JOURNAL_MAGIC_BYTES     8u

#define RECORD_LENGTH_BYTES     4u /* JOURNAL_RECORD_FRAME_BYTES to callers */

#define JOURNAL_SEQ_MAX         ((UINT64_C(1) << 63) - 1)

#endif
