/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rights by name, and which of them includes which.
 */
#include "proto/base/access.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

const char *const access_right_names[ACCESS_RIGHTS + 1] = {"read", "track", "operate", "admin",
                                                           NULL};

uint32_t access_rights_with_included(uint32_t rights)
{
    if (rights & ACCESS_ADMIN) {
        return ACCESS_ALL;
    }
    return rights & ACCESS_OPERATE ? rights | ACCESS_READ : rights;
}

const char *access_rights_words(uint32_t rights, char buffer[ACCESS_WORDS_BYTES])
{
    size_t used = 0;

    buffer[0] = '\0';
    for (uint32_t i = 0; i < ACCESS_RIGHTS; i++) {
        if (rights & 1u << i) {
            used += (size_t)snprintf(buffer + used, ACCESS_WORDS_BYTES - used, "%s%s",
                                     used > 0 ? " or " : "", access_right_names[i]);
        }
    }
    return buffer;
}
