/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CONTAINER_DISK_H
#define BITMAPD_DAEMON_CONTAINER_DISK_H

#include "daemon/container/internal.h"

/*
 * What disk.c and disk_tables.c share: following the structures of a disk that
 * shares its image with us.
 *
 * Return values: < 0 fails the load; 1: the sink took a problem, and the
 * structure is to be passed over; 0.
 */
struct disk {
    struct container *container;
    struct load_sink *sink;
    uint64_t file_bytes;
    struct error *error;
    uint8_t *chunk; /* DISK_CHUNK_BYTES, for whoever reads a table */
};

#define DISK_CHUNK_BYTES (UINT32_C(64) << 10)

/* References the clusters of a structure that has them to itself. */
int disk_claim(struct disk *disk, const char *what, uint64_t offset, uint64_t bytes);
/* References a cluster of data, which others may refer to as well.  @where: for the words. */
int disk_data(struct disk *disk, const char *where, uint64_t cluster, uint32_t times);
/* Claims an L1 table and counts its L2 tables. */
int disk_l1_table(struct disk *disk, const char *what, uint64_t offset, uint64_t entries);
/* The snapshot table and each snapshot's L1 table. */
int disk_snapshots(struct disk *disk);
/* QEMU's own bitmaps, where they are up to date. */
int disk_bitmaps(struct disk *disk);

#endif
