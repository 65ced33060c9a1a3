/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_ENDIAN_H
#define BITMAPD_PROTO_BASE_ENDIAN_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

/*
 * Unaligned loads and stores.  Big endian is qcow2's order, little endian the
 * wire's and the state blob's.
 */
#define DEFINE_ENDIAN_ACCESS(bits, order)                             \
    static inline uint##bits##_t load_##order##bits(const void *p)    \
    {                                                                 \
        uint##bits##_t v;                                             \
        memcpy(&v, p, sizeof v);                                      \
        return order##bits##toh(v);                                   \
    }                                                                 \
    static inline void store_##order##bits(void *p, uint##bits##_t v) \
    {                                                                 \
        v = hto##order##bits(v);                                      \
        memcpy(p, &v, sizeof v);                                      \
    }

DEFINE_ENDIAN_ACCESS(16, be)
DEFINE_ENDIAN_ACCESS(32, be)
DEFINE_ENDIAN_ACCESS(64, be)
DEFINE_ENDIAN_ACCESS(16, le)
DEFINE_ENDIAN_ACCESS(32, le)
DEFINE_ENDIAN_ACCESS(64, le)

#undef DEFINE_ENDIAN_ACCESS

#endif
