/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_CRC32C_H
#define BITMAPD_PROTO_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * CRC32C (Castagnoli, reflected polynomial 0x82f63b78), as iSCSI (RFC 3720,
 * B.4) and ext4 use it.  @crc is 0 at the start, or the result over the bytes
 * before @data to go on.  crc32c(0, "123456789", 9) is 0xe3069283.
 * Thread-safe.
 */
uint32_t crc32c(uint32_t crc, const void *data, size_t length_bytes);

/* The same by table only, for machines without the instruction and for its test. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t length_bytes);

#endif
