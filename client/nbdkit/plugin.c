/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbdkit plugin "bitmapd": serves one raw drive and marks every write in
 * bitmapd before it is made.
 *
 * - One drive, one descriptor and one tracker for the whole process; clients'
 *   connections have no state of their own.  A flush on any of them therefore
 *   covers what the others have completed, which can_multi_conn promises.
 * - pwrite, zero and trim: mark, wait, write, and with FUA flush.  A flush
 *   settles the marks of all writes that had returned before it began.
 * - get_ready connects and attaches, so that what is wrong is said before
 *   nbdkit goes to the background; threads do not survive that fork, so the
 *   tracker's starts in after_fork.  nbdkit changes its directory in between:
 *   every path is made absolute when it is read.
 * - The tracker reports an outage once.  Requests that fail because of it
 *   only set errno.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "client/nbdkit/drive.h"
#include "client/nbdkit/tracker.h"
#include "proto/base/checked.h"
#include "proto/base/crc32c.h"
#include "proto/base/name.h"
#include "proto/base/size.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define THREAD_MODEL                NBDKIT_THREAD_MODEL_PARALLEL

#define RECONNECT_TIMEOUT_DEFAULT_S 25

static struct {
    char *file; /* absolute */
    const char *drive;
    char *socket; /* absolute; NULL: libbitmapd's default */
    const char *writer;
    char writer_default[NAME_BYTES_MAX + 1];
    uint64_t mark_align_bytes;
    unsigned reconnect_timeout_s;
    bool continues;
} config = {
    .mark_align_bytes = 1,
    .reconnect_timeout_s = RECONNECT_TIMEOUT_DEFAULT_S,
};

static struct drive *drive;
static struct tracker *tracker;

/* ---- Configuration ---- */

static int plugin_config_name(const char *key, enum name_kind kind, const char *value)
{
    struct error error;
    if (name_check(kind, value, strlen(value), &error) < 0) {
        nbdkit_error("%s: %s", key, error.text);
        return -1;
    }
    return 0;
}

static int plugin_config(const char *key, const char *value)
{
    if (strcmp(key, "file") == 0) {
        free(config.file);
        config.file = nbdkit_realpath(value);
        return config.file == NULL ? -1 : 0;
    }
    if (strcmp(key, "drive") == 0) {
        config.drive = value;
        return plugin_config_name(key, NAME_DRIVE, value);
    }
    if (strcmp(key, "socket") == 0) {
        free(config.socket);
        config.socket = nbdkit_absolute_path(value);
        return config.socket == NULL ? -1 : 0;
    }
    if (strcmp(key, "writer") == 0) {
        config.writer = value;
        return plugin_config_name(key, NAME_DRIVE, value);
    }
    if (strcmp(key, "mark-align") == 0) {
        int r = size_parse(value, &config.mark_align_bytes);
        if (r < 0 || !is_power_of_two(config.mark_align_bytes)) {
            nbdkit_error("mark-align: expected a size that is a power of two, got \"%s\"", value);
            return -1;
        }
        return 0;
    }
    if (strcmp(key, "reconnect-timeout") == 0) {
        return nbdkit_parse_unsigned(key, value, &config.reconnect_timeout_s);
    }
    if (strcmp(key, "on-lost") == 0) {
        config.continues = strcmp(value, "continue") == 0;
        if (!config.continues && strcmp(value, "error") != 0) {
            nbdkit_error("on-lost: expected error or continue, got \"%s\"", value);
            return -1;
        }
        return 0;
    }
    nbdkit_error("unknown parameter \"%s\"", key);
    return -1;
}

/*
 * "nbdkit-DRIVE": the same at every start, so that a writer that died is found
 * again.  Where that is too long for a token, its end gives way to a checksum
 * of the drive's name.
 */
static void plugin_default_writer(void)
{
    const char *name = config.drive;
    int length = snprintf(config.writer_default, sizeof config.writer_default, "nbdkit-%s", name);
    if ((size_t)length < sizeof config.writer_default) {
        return;
    }
    size_t keep = NAME_BYTES_MAX - strlen("-01234567");
    while (((uint8_t)config.writer_default[keep] & 0xc0) == 0x80) {
        keep--; /* not within a character */
    }
    (void)snprintf(config.writer_default + keep, sizeof config.writer_default - keep, "-%08" PRIx32,
                   crc32c(0, name, strlen(name)));
}

static int plugin_config_complete(void)
{
    if (config.file == NULL) {
        nbdkit_error("file=RAW is missing: the raw drive to serve");
        return -1;
    }
    if (config.drive == NULL) {
        nbdkit_error(
            "drive=NAME is missing: the drive's name in bitmapd (see bitmapctl drive add)");
        return -1;
    }
    if (config.writer == NULL) {
        plugin_default_writer();
        config.writer = config.writer_default;
    }
    const char *socket = getenv("BITMAPD_SOCKET");
    if (config.socket == NULL && socket != NULL && socket[0] != '\0') {
        config.socket = nbdkit_absolute_path(socket);
        if (config.socket == NULL) {
            return -1;
        }
    }
    return 0;
}

#define plugin_config_help                                                        \
    "[file=]RAW        (required) The raw drive: a file or a block device.\n"     \
    "drive=NAME        (required) Its name in bitmapd.\n"                         \
    "socket=PATH       bitmapd's socket, default $BITMAPD_SOCKET or\n"            \
    "                  /run/bitmapd/bitmapd.sock.\n"                              \
    "writer=TOKEN      Who writes, for bitmapd; default nbdkit-NAME.\n"           \
    "mark-align=SIZE   Mark ranges aligned to this power of two.\n"               \
    "reconnect-timeout=SECONDS\n"                                                 \
    "                  How long writes wait for bitmapd to come back, default\n"  \
    "                  25.\n"                                                     \
    "on-lost=error|continue\n"                                                    \
    "                  Whether they fail then, or go on without marks; default\n" \
    "                  error."

/* ---- Life ---- */

static int plugin_sync(void *opaque)
{
    return drive_sync(opaque);
}

static void plugin_report(void *opaque, const char *text)
{
    (void)opaque;
    nbdkit_error("%s", text);
}

static int plugin_get_ready(void)
{
    struct error error;
    if (drive_open(config.file, &drive, &error) < 0) {
        nbdkit_error("%s", error.text);
        return -1;
    }
    if (drive_size_bytes(drive) == 0) {
        nbdkit_error("%s: empty", config.file);
        return -1;
    }
    struct tracker_settings settings = {
        .socket_path = config.socket,
        .drive = config.drive,
        .writer = config.writer,
        .client_name = "nbdkit-bitmapd-plugin " BITMAPD_VERSION,
        .size_bytes = drive_size_bytes(drive),
        .align_bytes = config.mark_align_bytes,
        .reconnect_timeout_s = config.reconnect_timeout_s,
        .continues = config.continues,
        .sync = plugin_sync,
        .report = plugin_report,
        .opaque = drive,
    };
    if (tracker_new(&settings, &tracker, &error) < 0) {
        nbdkit_error("%s", error.text);
        return -1;
    }
    return 0;
}

static int plugin_after_fork(void)
{
    int r = tracker_start(tracker);
    if (r < 0) {
        nbdkit_error("starting a thread: %s", strerrordesc_np(-r));
        return -1;
    }
    return 0;
}

static void plugin_cleanup(void)
{
    tracker_stop(tracker);
}

static void plugin_unload(void)
{
    tracker_free(STEAL(tracker));
    drive_close(STEAL(drive));
    free(config.file);
    free(config.socket);
}

/* ---- What the drive can do ---- */

static void *plugin_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return (int64_t)drive_size_bytes(drive);
}

static int plugin_can_write(void *handle)
{
    (void)handle;
    return drive_is_writable(drive);
}

static int plugin_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int plugin_can_extents(void *handle)
{
    (void)handle;
    return drive_has_extents(drive);
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                             uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = drive_preferred_bytes(drive);
    *maximum = UINT32_MAX;
    return 0;
}

/* ---- Requests ---- */

/* Result of a callback that fails with -errno @r. */
static int plugin_fail(int r)
{
    assert(r < 0);
    errno = -r;
    nbdkit_set_error(-r);
    return -1;
}

static int plugin_fail_io(const char *what, uint32_t count, uint64_t offset, int r)
{
    nbdkit_error("%s: %s of %" PRIu32 " bytes at %" PRIu64 ": %s", config.file, what, count, offset,
                 strerrordesc_np(-r));
    return plugin_fail(r);
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    (void)flags;
    int r = drive_read(drive, data, count, offset);
    return r < 0 ? plugin_fail_io("read", count, offset, r) : 0;
}

enum change_kind {
    CHANGE_WRITE,
    CHANGE_ZERO,
    CHANGE_TRIM,
};

static const char *const change_names[] = {
    [CHANGE_WRITE] = "write",
    [CHANGE_ZERO] = "zero",
    [CHANGE_TRIM] = "trim",
};

static unsigned zero_flags(uint32_t flags)
{
    return ((flags & NBDKIT_FLAG_MAY_TRIM) != 0 ? DRIVE_ZERO_MAY_PUNCH : 0u) |
           ((flags & NBDKIT_FLAG_FAST_ZERO) != 0 ? DRIVE_ZERO_FAST : 0u);
}

static int change_drive(enum change_kind kind, const void *data, uint32_t count, uint64_t offset,
                        uint32_t flags)
{
    switch (kind) {
    case CHANGE_WRITE:
        return drive_write(drive, data, count, offset);
    case CHANGE_ZERO:
        return drive_zero(drive, count, offset, zero_flags(flags));
    case CHANGE_TRIM:
        return drive_trim(drive, count, offset);
    }
    return -EINVAL;
}

/* The one way to the drive for anything that changes it. */
static int plugin_change(enum change_kind kind, const void *data, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    struct tracker_mark *mark = NULL;
    int r = tracker_write_begin(tracker, offset, count, &mark);
    if (r < 0) {
        return plugin_fail(r);
    }
    r = change_drive(kind, data, count, offset, flags);
    /* A fast zero that could not be is no failed write: what it may have changed has completed,
     * and the next flush covers it.  Its range is often the whole drive. */
    bool refused = kind == CHANGE_ZERO && r == -EOPNOTSUPP;
    tracker_write_end(tracker, mark, r < 0 && !refused);
    if (refused) {
        return plugin_fail(r); /* no news to anybody */
    }
    if (r < 0) {
        return plugin_fail_io(change_names[kind], count, offset, r);
    }
    if ((flags & NBDKIT_FLAG_FUA) != 0) {
        r = tracker_flush(tracker);
        if (r < 0) {
            return plugin_fail(r);
        }
    }
    return 0;
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    (void)handle;
    return plugin_change(CHANGE_WRITE, data, count, offset, flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    if (drive_zero_is_hopeless(drive, zero_flags(flags))) {
        return plugin_fail(-EOPNOTSUPP);
    }
    return plugin_change(CHANGE_ZERO, NULL, count, offset, flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return plugin_change(CHANGE_TRIM, NULL, count, offset, flags);
}

static int plugin_flush(void *handle, uint32_t flags)
{
    (void)handle;
    (void)flags;
    int r = tracker_flush(tracker);
    return r < 0 ? plugin_fail(r) : 0;
}

/* 1 when nbdkit takes no more, and has said why. */
static int plugin_add_extent(void *opaque, uint64_t offset, uint64_t length, bool hole)
{
    uint32_t type = hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
    return nbdkit_add_extent(opaque, offset, length, type) < 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    (void)handle;
    bool one = (flags & NBDKIT_FLAG_REQ_ONE) != 0;
    int r = drive_extents(drive, count, offset, one, plugin_add_extent, extents);
    if (r > 0) {
        return -1;
    }
    return r < 0 ? plugin_fail_io("reading extents", count, offset, r) : 0;
}

static struct nbdkit_plugin plugin = {
    .name = "bitmapd",
    .longname = "nbdkit bitmapd plugin",
    .version = BITMAPD_VERSION,
    .description = "serves a raw drive and keeps its dirty bitmaps in bitmapd",
    .magic_config_key = "file",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = plugin_config_help,
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_flush = plugin_yes,
    .can_trim = plugin_yes,
    .can_zero = plugin_yes,
    .can_fast_zero = plugin_yes,
    .can_fua = plugin_can_fua,
    .can_multi_conn = plugin_yes,
    .can_extents = plugin_can_extents,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .zero = plugin_zero,
    .trim = plugin_trim,
    .flush = plugin_flush,
    .extents = plugin_extents,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
