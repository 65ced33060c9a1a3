/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CONTAINER_FORMAT_H
#define BITMAPD_DAEMON_CONTAINER_FORMAT_H

/*
 * The bytes of a container.  "qcow2" marks what the qcow2 specification
 * (version 3) rules, "draft" what the dirty bitmap draft of 2015 adds to it,
 * "ours" what no other program knows.  qcow2 and draft structures are big
 * endian, the state blob is little endian.  All offsets in the file are in
 * bytes and, unless said otherwise, multiples of the cluster size.
 */

/*
 * Header (at byte 0 of the file; qcow2 up to byte 104):
 *
 *     0  u32  magic, "QFI\xfb"
 *     4  u32  version: 3
 *     8  u64  backing file name: offset; 0 = none
 *    16  u32  its length
 *    20  u32  cluster_bits, 9 … 21
 *    24  u64  virtual size: 0 in an external container
 *    32  u32  crypt_method: 0 (else: not written to)
 *    36  u32  entries in the active L1 table: 0 in an external container
 *    40  u64  its offset; meaningless without entries
 *    48  u64  refcount table: offset
 *    56  u32  refcount table: clusters, >= 1
 *    60  u32  snapshots: 0 in an external container
 *    64  u64  snapshot table: offset; meaningless without snapshots
 *    72  u64  incompatible feature bits: 0 (qcow2's own: not written to; others: not read)
 *    80  u64  compatible feature bits: kept
 *    88  u64  autoclear feature bits: 0 and 1 are qcow2's and kept, 63 is ours, others are
 *             cleared by our first commit, as qcow2 demands of a program that does not know them
 *    96  u32  refcount_order, 0 … 6
 *   100  u32  header_length; >= 116 read, >= 120 written; >= 104 in an image that is to become
 *             an internal container
 *   104  u32  draft: nb_dirty_bitmaps
 *   108  u64  draft: dirty_bitmaps_offset; meaningless without bitmaps, we write 0 then
 *   116  u32  zero, so that header_length is a multiple of 8 as qcow2 asks
 *
 * Fields that a longer header holds are kept as they are.
 */
#define HEADER_MAGIC                   0
#define HEADER_VERSION                 4
#define HEADER_BACKING_OFFSET          8
#define HEADER_BACKING_LENGTH          16
#define HEADER_CLUSTER_BITS            20
#define HEADER_VIRTUAL_SIZE            24
#define HEADER_CRYPT_METHOD            32
#define HEADER_L1_ENTRIES              36
#define HEADER_L1_OFFSET               40
#define HEADER_REFCOUNT_TABLE_OFFSET   48
#define HEADER_REFCOUNT_TABLE_CLUSTERS 56
#define HEADER_SNAPSHOTS               60
#define HEADER_SNAPSHOTS_OFFSET        64
#define HEADER_INCOMPATIBLE            72
#define HEADER_COMPATIBLE              80
#define HEADER_AUTOCLEAR               88
#define HEADER_REFCOUNT_ORDER          96
#define HEADER_LENGTH                  100
#define HEADER_BITMAPS                 104
#define HEADER_BITMAPS_OFFSET          108

#define HEADER_MAGIC_VALUE             0x514649fbu
#define HEADER_VERSION_VALUE           3u
#define HEADER_BYTES_QCOW2             104u /* the shortest of version 3 */
#define HEADER_BYTES_MIN               116u /* up to dirty_bitmaps_offset's end */
#define HEADER_BYTES                   120u /* as we write it */
#define HEADER_FIELDS_OFFSET           104u /* the draft's fields, of which the extension has a copy */
#define HEADER_FIELDS_BYTES            12u

#define HEADER_REFCOUNT_ORDER_MAX      6u
#define HEADER_REFCOUNT_ORDER_DEFAULT  4u

#define INCOMPATIBLE_DIRTY             (UINT64_C(1) << 0)
#define INCOMPATIBLE_CORRUPT           (UINT64_C(1) << 1)
#define INCOMPATIBLE_EXTERNAL_DATA     (UINT64_C(1) << 2)
#define INCOMPATIBLE_COMPRESSION       (UINT64_C(1) << 3) /* byte 104 is compression_type then */
#define INCOMPATIBLE_EXTENDED_L2       (UINT64_C(1) << 4)
#define INCOMPATIBLE_KNOWN             UINT64_C(0x1f)

/*
 * Set by every commit of ours in an image without snapshots.  A program that
 * opens the image for writing and does not know the bit must clear it: its
 * absence beside our extension says that somebody did.
 *
 * Not in an image with snapshots: QEMU, up to now, loses them all when it has a
 * bit to clear while it opens an image for `qemu-img check -r` (it has not read
 * the snapshot table then, and writes the header without).  There the header's
 * CRC and refcounts of ours that somebody has lowered have to tell; what they
 * cannot tell, a write to the disk alone, does the bitmaps no harm.
 */
#define AUTOCLEAR_OURS    (UINT64_C(1) << 63)
#define AUTOCLEAR_BITMAPS (UINT64_C(1) << 0) /* QEMU's own bitmaps are up to date */
#define AUTOCLEAR_KEPT    UINT64_C(3)

/*
 * Header extensions follow at header_length (qcow2): u32 type, u32 length of
 * the data, data, zero padding to 8; type 0 ends them.  The "header block" is
 * everything from byte 0 to the end of the end mark or, when there is a backing
 * file, of its name, which follows; it lies in cluster 0.
 */
#define EXTENSION_HEADER_BYTES   8u
#define EXTENSION_END            0x00000000u
#define EXTENSION_PRIVATE        0x424d4150u /* ours, "BMAP" */
#define EXTENSION_FEATURE_NAMES  0x6803f857u /* text only: refers to no cluster */
#define EXTENSION_BACKING_FORMAT 0xe2792acau /* text only */
#define EXTENSION_DATA_FILE      0x44415441u /* text only */
#define EXTENSION_ENCRYPTION     0x0537be77u /* LUKS header: such an image is refused */
#define EXTENSION_BITMAPS        0x23852875u /* QEMU's own bitmaps: see "internal containers" */
#define EXTENSION_PADDING        0x42504144u /* ours, "BPAD": room taken up, see adopt.c */

#define BACKING_BYTES_MAX        1023u

/*
 * Our extension's data, version 1 (big endian, as everything around it):
 *
 *     0  u64  state blob: offset
 *     8  u64  state blob: length in bytes, >= STATE_HEADER_BYTES
 *    16  u64  mirror: offset.  A cluster that holds a copy of the header block.
 *    24  u32  version: 1
 *    28  16   container UUID
 *    44  16   commit id, random
 *    60  u64  applied_seq
 *    68  u32  clean: 0 or 1
 *    72  16   boot id of the commit's host
 *    88  u64  the file's inode
 *    96  u64  the file's birth time, ns since the epoch
 *   104  12   copy of header bytes 104 … 115; believed instead of them, since QEMU zeroes some
 *   116  u32  CRC32C of the header block, this field taken as zero
 *   120  u32  CRC32C of these 128 bytes, this field and the one before taken as zero: it still
 *             vouches for the extension when another program has rewritten the header around it
 *   124  u32  flags: bit 0 = the state was lost: the blob's payload is empty, its ids are 0, and
 *             whoever loads it is to take every bitmap for unknown.  A repair sets it, the next
 *             commit of a daemon clears it; the others are 0
 */
#define PRIVATE_STATE_OFFSET  0
#define PRIVATE_STATE_LENGTH  8
#define PRIVATE_MIRROR_OFFSET 16
#define PRIVATE_VERSION       24
#define PRIVATE_UUID          28
#define PRIVATE_COMMIT_ID     44
#define PRIVATE_APPLIED_SEQ   60
#define PRIVATE_CLEAN         68
#define PRIVATE_BOOT_ID       72
#define PRIVATE_INODE         88
#define PRIVATE_BIRTH_TIME    96
#define PRIVATE_FIELDS        104
#define PRIVATE_HEADER_CRC    116
#define PRIVATE_CRC           120
#define PRIVATE_FLAGS         124
#define PRIVATE_BYTES         128u
#define PRIVATE_VERSION_VALUE 1u
#define PRIVATE_STATE_LOST    1u

/*
 * Refcount table (qcow2): u64 offsets of refcount blocks, 0 = all its clusters
 * have refcount 0; bits 0 … 8 zero.  A block is one cluster of counters of
 * 1 << refcount_order bits; the narrow ones fill a byte from its low bits up.
 * QEMU reads no table larger than 8 MiB, so neither do we.
 */
#define REFCOUNT_TABLE_ENTRY_BYTES 8u
#define REFCOUNT_TABLE_RESERVED    UINT64_C(0x1ff)

/*
 * Bitmap table (draft): contiguous, starts at a cluster, nb_dirty_bitmaps
 * entries:
 *
 *     0  u64  L1 table: offset
 *     8  u32  L1 table: entries, as many clusters of bits as the bitmap has
 *    12  u32  granularity in bytes, a power of two, 512 … 2 GiB
 *    16  u64  size in sectors of 512 bytes
 *    24  u16  length of the name
 *    26       name, then zero padding to 8
 */
#define TABLE_L1_OFFSET       0
#define TABLE_L1_ENTRIES      8
#define TABLE_GRANULARITY     12
#define TABLE_SECTORS         16
#define TABLE_NAME_LENGTH     24
#define TABLE_NAME            26
#define TABLE_ENTRY_ALIGN     8u
#define TABLE_ENTRY_BYTES_MIN 32u

#define SECTOR_BYTES          512u

/*
 * L1 table (draft): contiguous, starts at a cluster, u64 entries: a standard
 * cluster descriptor in bits 0 … 61 (bit 0: reads as zeros; bits 9 … 55: offset,
 * 0 = unallocated, reads as zeros; the rest reserved), bits 62 and 63 zero.
 */
#define L1_ENTRY_BYTES 8u
#define L1_ZERO_FLAG   UINT64_C(1)
#define L1_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

/*
 * State blob (ours): contiguous, starts at a cluster.
 *
 *     0   8   magic "BMPSTATE"
 *     8  u32  version: 1
 *    12  u32  CRC32C of the whole blob, this field taken as zero
 *    16  u64  length of the whole blob in bytes, as in the extension
 *    24  16   container UUID, as in the extension
 *    40  16   commit id, as in the extension
 *    56  u64  length of the opaque payload, which ends the blob
 *    64  u64  bitmap table: length in bytes
 *    72  u32  bitmap table: entries, as in the header
 *    76  u32  CRC32C of the bitmap table
 *    80       per bitmap table entry, in its order:
 *               0  u64  id; 0: an entry that is not ours
 *               8  u32  flags: bit 0 = its bits are known to be lost
 *              12  u32  CRC32C of its L1 table (its entries only, not the cluster's rest)
 *              16  u32  number of data cluster CRCs: one per L1 entry that has an offset and no
 *                       zero flag; 0 when id is 0
 *              20  u32  zero
 *              24       u32 each: CRC32C of the data cluster, in L1 order
 *             payload
 */
#define STATE_MAGIC          0
#define STATE_VERSION        8
#define STATE_CRC            12
#define STATE_LENGTH         16
#define STATE_UUID           24
#define STATE_COMMIT_ID      40
#define STATE_PAYLOAD_LENGTH 56
#define STATE_TABLE_LENGTH   64
#define STATE_TABLE_ENTRIES  72
#define STATE_TABLE_CRC      76
#define STATE_HEADER_BYTES   80u
#define STATE_MAGIC_VALUE    "BMPSTATE"
#define STATE_VERSION_VALUE  1u

#define STATE_ENTRY_ID       0
#define STATE_ENTRY_FLAGS    8
#define STATE_ENTRY_L1_CRC   12
#define STATE_ENTRY_CRCS     16
#define STATE_ENTRY_ZERO     20
#define STATE_ENTRY_BYTES    24u
#define STATE_ENTRY_LOST     1u

/*
 * Internal containers: the image has a disk of its own, which is QEMU's and
 * its guest's.  `bitmapctl container create --internal` prepares one: the
 * header gets the draft's fields, our extension joins the others, and what an
 * external container has comes into free clusters.  From then on the two kinds
 * differ in one thing: clusters that the structures below lead to are followed
 * and counted, so that they are never taken for free, and never written to.
 * What we write in such a file is the header block (the disk's fields, foreign
 * extensions and backing file name as they were), refcounts of our own
 * clusters, and free clusters.
 *
 * All of it is qcow2's.  Offsets are at cluster boundaries.
 *
 * L1 table (of the disk, or of a snapshot): u64 entries; bits 9 … 55: offset of
 * an L2 table, 0 = none; bit 63: its refcount is 1; the rest is zero.  An L2
 * table is a cluster and may be in several L1 tables.
 *
 * L2 entry, bit 62 clear: bit 0: reads as zeros; bits 9 … 55: offset of a data
 * cluster, 0 = none; bit 63: its refcount is 1; the rest is zero.
 *
 * L2 entry, bit 62 set: compressed.  Bits 0 … x - 1 with x = 62 - (cluster_bits
 * - 8): offset of the data, anywhere; bits x … 61: the number of sectors of 512
 * bytes after the first that they reach into.  Each cluster that they touch is
 * referenced.
 *
 * Snapshot table: entries of variable length:
 *
 *     0  u64  L1 table: offset
 *     8  u32  L1 table: entries
 *    12  u16  length of the id
 *    14  u16  length of the name
 *    36  u32  length of the extra data
 *    40       extra data, id, name, zero padding to 8
 *
 * QEMU's own bitmaps (extension 0x23852875, only with autoclear bit 0): its
 * data are u32 number of bitmaps, u32 zero, u64 length of the directory, u64
 * offset of the directory.  Directory entries, of variable length:
 *
 *     0  u64  bitmap table: offset
 *     8  u32  bitmap table: entries
 *    18  u16  length of the name
 *    20  u32  length of the extra data
 *    24       extra data, name, zero padding to 8
 *
 * Bitmap table: u64 entries; bits 9 … 55: offset of a cluster of bits; bit 0
 * without one: all ones.
 */
#define DISK_ENTRY_BYTES            8u
#define DISK_OFFSET_MASK            UINT64_C(0x00fffffffffffe00)
#define DISK_COPIED                 (UINT64_C(1) << 63)
#define DISK_COMPRESSED             (UINT64_C(1) << 62)
#define DISK_L1_RESERVED            UINT64_C(0x7f000000000001ff)
#define DISK_L2_RESERVED            UINT64_C(0x3f000000000001fe)
#define DISK_L1_BYTES_MAX           (UINT64_C(32) << 20) /* QEMU's limit */

#define SNAPSHOT_L1_OFFSET          0
#define SNAPSHOT_L1_ENTRIES         8
#define SNAPSHOT_ID_LENGTH          12
#define SNAPSHOT_NAME_LENGTH        14
#define SNAPSHOT_EXTRA_LENGTH       36
#define SNAPSHOT_HEADER_BYTES       40u
#define SNAPSHOT_EXTRA_MAX          1024u /* QEMU's limits */
#define SNAPSHOTS_MAX               65536u
#define SNAPSHOT_TABLE_BYTES_MAX    (UINT64_C(64) << 20)

#define BITMAPS_NUMBER              0
#define BITMAPS_DIRECTORY_LENGTH    8
#define BITMAPS_DIRECTORY_OFFSET    16
#define BITMAPS_BYTES               24u
#define BITMAPS_DIRECTORY_BYTES_MAX (UINT64_C(128) << 20)
#define BITMAPS_MAX                 65535u

#define BITMAPS_ENTRY_TABLE_OFFSET  0
#define BITMAPS_ENTRY_TABLE_ENTRIES 8
#define BITMAPS_ENTRY_NAME_LENGTH   18
#define BITMAPS_ENTRY_EXTRA_LENGTH  20
#define BITMAPS_ENTRY_HEADER_BYTES  24u
#define BITMAPS_TABLE_RESERVED      UINT64_C(0xff000000000001fe)

#endif
