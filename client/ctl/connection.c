/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all online verbs share: a connection, and failures in words and codes.
 */
#include "client/ctl/connection.h"

#include "client/ctl/exit.h"
#include "proto/base/checked.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *connection_command(const struct invocation *inv)
{
    static char text[64];

    (void)snprintf(text, sizeof text, "%s%s%s", inv->verb->noun, inv->verb->verb ? " " : "",
                   inv->verb->verb ? inv->verb->verb : "");
    return text;
}

const char *connection_error(const bitmapd *handle, int r)
{
    const char *text = bitmapd_error(handle);

    return text[0] ? text : strerror(-r);
}

int connection_open(const struct invocation *inv, bitmapd **ret)
{
    CLEANUP_CONNECTION bitmapd *handle = bitmapd_new();

    if (!handle) {
        output_no_memory();
    }
    int r = bitmapd_set_client_name(handle, "bitmapctl " BITMAPD_VERSION);
    if (r == 0) {
        r = bitmapd_connect(handle, inv->socket);
    }
    if (r < 0) {
        output_diagnostic("%s: %s", connection_command(inv), connection_error(handle, r));
        return exit_from_connect(r, bitmapd_status_code(handle));
    }
    *ret = STEAL(handle);
    return EXIT_DONE;
}

int connection_result(bitmapd *handle, const struct invocation *inv, int r)
{
    if (r >= 0) {
        return EXIT_DONE;
    }
    output_diagnostic("%s: %s", connection_command(inv), connection_error(handle, r));
    return exit_from_request(r, bitmapd_status_code(handle));
}

int connection_done(bitmapd *handle, const struct invocation *inv, int r)
{
    int code = connection_result(handle, inv, r);

    if (code == EXIT_DONE && inv->format != OUTPUT_HUMAN) {
        output_json_print(output_json_new());
    }
    return code;
}

int connection_range(const struct invocation *inv)
{
    uint64_t end;

    if (checked_add_u64(inv->offset, inv->length, &end)) {
        return EXIT_DONE;
    }
    output_diagnostic("%s: the range reaches past the end of any drive", connection_command(inv));
    return EXIT_FAILED;
}
