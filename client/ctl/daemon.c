/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verbs that concern the daemon as a whole.
 */
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/text.h"

#include <inttypes.h>

#define NS_PER_S UINT64_C(1000000000)

static int request(const struct invocation *inv, int (*function)(bitmapd *))
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE ? code : connection_done(handle, inv, function(handle));
}

int daemon_flush(const struct invocation *inv)
{
    return request(inv, bitmapd_flush);
}

int daemon_reload(const struct invocation *inv)
{
    return request(inv, bitmapd_reload);
}

static void print_json(const struct bitmapd_daemon_status *status)
{
    char uuid[TEXT_UUID_BYTES];
    json_object *object = output_json_new();

    output_json_add_string(object, "server", status->server);
    output_json_add_string(object, "instance_uuid", text_uuid(status->instance_uuid, uuid));
    output_json_add_number(object, "uptime_ns", status->uptime_ns);
    output_json_add_bool(object, "degraded", status->degraded);
    output_json_add_string(object, "degraded_reason", status->degraded_reason);
    output_json_add_number(object, "degraded_since_ns", status->degraded_since_ns);
    output_json_add_string(object, "start_report", status->start_report);
    output_json_add_string(object, "container_path", status->container_path);
    output_json_add_string(object, "container_uuid", text_uuid(status->container_uuid, uuid));
    output_json_add_number(object, "container_bytes", status->container_bytes);
    output_json_add_number(object, "sequence", status->sequence);
    output_json_add_number(object, "applied_seq", status->applied_seq);
    output_json_add_number(object, "flushes", status->flushes);
    output_json_add_number(object, "drives", status->drives);
    output_json_add_number(object, "bitmaps", status->bitmaps);
    output_json_add_number(object, "unknown_bitmaps", status->unknown_bitmaps);
    output_json_add_number(object, "connections", status->connections);
    output_json_add_number(object, "marks", status->marks);
    output_json_add_number(object, "memory_bytes", status->memory_bytes);
    output_json_add_number(object, "dirty_memory_bytes", status->dirty_memory_bytes);
    output_json_print(object);
}

static void print_state(const struct bitmapd_daemon_status *status)
{
    if (!status->degraded) {
        output_print("state:         running\n");
        return;
    }
    char since[TEXT_TIME_BYTES];
    output_print("state:         degraded since %s: %s\n",
                 text_time(status->degraded_since_ns, since), output_text(status->degraded_reason));
}

static void print_human(const struct bitmapd_daemon_status *status)
{
    char text[TEXT_SIZE_BYTES];
    char uuid[TEXT_UUID_BYTES];
    uint64_t uptime_s = status->uptime_ns / NS_PER_S;

    output_print("server:        %s\n", output_text(status->server));
    print_state(status);
    output_print("up:            %" PRIu64 "d %02u:%02u:%02u\n", uptime_s / 86400,
                 (unsigned)(uptime_s / 3600 % 24), (unsigned)(uptime_s / 60 % 60),
                 (unsigned)(uptime_s % 60));
    if (status->start_report[0]) {
        output_print("start:         %s\n", output_text(status->start_report));
    }
    output_print("container:     %s\n", output_text(status->container_path));
    output_print("               %s, %" PRIu64 " bytes\n", text_uuid(status->container_uuid, uuid),
                 status->container_bytes);
    output_print("changes:       %" PRIu64 ", in the container up to %" PRIu64 "\n",
                 status->sequence, status->applied_seq);
    output_print("flushes:       %" PRIu64 "\n", status->flushes);
    output_print("drives:        %" PRIu32 "\n", status->drives);
    output_print("bitmaps:       %" PRIu32 " (%" PRIu32 " unknown)\n", status->bitmaps,
                 status->unknown_bitmaps);
    output_print("connections:   %" PRIu32 "\n", status->connections);
    output_print("marks:         %" PRIu64 "\n", status->marks);
    output_print("memory:        %s", text_size(status->memory_bytes, text));
    output_print(" (%s to be written back)\n", text_size(status->dirty_memory_bytes, text));
}

int daemon_status(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct bitmapd_daemon_status status;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv, bitmapd_get_status(handle, &status));
    if (code == EXIT_DONE && inv->format == OUTPUT_HUMAN) {
        print_human(&status);
    } else if (code == EXIT_DONE) {
        print_json(&status);
    }
    return code;
}
