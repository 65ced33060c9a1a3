/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes and time spans as users type them.  strtoull() alone would take signs,
 * spaces and overflow silently, so digits are checked first.
 */
#include "proto/base/size.h"

#include "proto/base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int digits_parse(const char *text, uint64_t *ret_value, const char **ret_rest)
{
    if (text[0] < '0' || text[0] > '9') {
        return -EINVAL;
    }
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno == ERANGE) {
        return -ERANGE;
    }
    *ret_value = value;
    *ret_rest = end;
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGTP";
    uint64_t value;
    const char *rest;

    int r = digits_parse(text, &value, &rest);
    if (r < 0) {
        return r;
    }
    if (*rest != '\0') {
        char letter = *rest == 'k' ? 'K' : *rest;
        const char *unit = strchr(units, letter);
        if (!unit || (rest[1] != '\0' && strcmp(rest + 1, "iB") != 0)) {
            return -EINVAL;
        }
        uint64_t factor = UINT64_C(1) << (10 * (unit - units + 1));
        if (!checked_mul_u64(value, factor, &value)) {
            return -ERANGE;
        }
    }
    *ret_bytes = value;
    return 0;
}

int span_parse(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {
        {"", UINT64_C(1000000000)},     {"s", UINT64_C(1000000000)},
        {"ms", UINT64_C(1000000)},      {"min", UINT64_C(60000000000)},
        {"h", UINT64_C(3600000000000)}, {"d", UINT64_C(86400000000000)},
    };
    uint64_t value;
    const char *rest;

    int r = digits_parse(text, &value, &rest);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(rest, units[i].name) == 0) {
            return checked_mul_u64(value, units[i].ns, ret_ns) ? 0 : -ERANGE;
        }
    }
    return -EINVAL;
}
