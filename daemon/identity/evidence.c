/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What moves when a drive is written to, taken and compared.  It serves to
 * lower validity and never to raise it: equality is no proof, so that where
 * anything is in doubt (no count is kept, the kernel does not tell) there is
 * no evidence rather than one that never moves.
 *
 * Nor is a write concluded from what moves without one: a device is attached
 * anew at every start of a guest where its volume is activated, its image
 * mapped or its iSCSI session opened for it (diskseq, and counters from 0), and
 * a disk is written to through its other partitions.
 *
 * Recorded evidence comes back from the container's file, so it is parsed as
 * any hostile text: each key once, known, and well-formed, or nothing is
 * concluded from it.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BOOT_ID_BYTES_MAX 64

void evidence_of_file(const struct statx *stx, struct drive_probe *ret)
{
    struct builder builder;

    /* Not the change time: that moves with owners and modes, and libvirt changes those. */
    builder_init(&builder, "file");
    builder_number(&builder, "size", stx->stx_size);
    builder_time(&builder, "mtime", &stx->stx_mtime);
    builder_finish(&builder, ret->evidence);
}

/* The fields of "stat" (Documentation/block/stat.rst), of which old kernels have fewer. */
struct counters {
    uint64_t written_sectors, discarded_sectors;
    bool discards;
};

static bool read_counters(int directory, struct counters *ret)
{
    enum {
        WRITTEN = 6,
        DISCARDED = 13,
    };
    struct sysfs_text text;
    uint64_t fields[DISCARDED + 1];
    size_t n = 0;

    if (!sysfs_read_text(directory, "stat", &text)) {
        return false;
    }
    for (const char *p = text.bytes; *p && n <= DISCARDED; n++) {
        size_t length = strcspn(p, " ");
        if (!parse_number(p, length, &fields[n])) {
            return false;
        }
        p += length;
        p += strspn(p, " ");
    }
    if (n <= WRITTEN) {
        return false;
    }
    *ret = (struct counters){.written_sectors = fields[WRITTEN], .discards = n > DISCARDED};
    if (ret->discards) {
        ret->discarded_sectors = fields[DISCARDED];
    }
    return true;
}

static void add_counters(struct builder *builder, const struct counters *counters, bool disk)
{
    builder_number(builder, disk ? "disk-written" : "written", counters->written_sectors);
    if (counters->discards) {
        builder_number(builder, disk ? "disk-discarded" : "discarded", counters->discarded_sectors);
    }
}

static bool usable_boot_id(const char *boot_id)
{
    size_t length = strlen(boot_id);

    return length > 0 && length <= BOOT_ID_BYTES_MAX &&
           strspn(boot_id, "0123456789abcdefABCDEF-") == length;
}

/* Why there is none, or NULL and @builder has it. */
static const char *collect(const struct probe_context *context, unsigned major, unsigned minor,
                           int fd, struct builder *builder)
{
    CLEANUP(block_device_close) struct block_device device = {.directory = -1, .disk = -1};
    struct counters own, disk;
    uint64_t counted, sequence, dax;
    struct statx stx;

    if (!usable_boot_id(context->boot_id)) {
        return "this boot has no id, and counters begin anew with each boot";
    }
    if (block_device_open(context, major, minor, &device) < 0) {
        return "sysfs does not tell of it";
    }
    if (!sysfs_read_number(device.disk, "queue/iostats", &counted)) {
        return "sysfs does not tell whether its writes are counted (queue/iostats)";
    }
    if (counted == 0) {
        return "its writes are not counted (queue/iostats is 0)";
    }
    /* Stores to mapped memory are no requests. */
    if (sysfs_read_number(device.disk, "queue/dax", &dax) && dax != 0) {
        return "it can be written to without any count (queue/dax is 1)";
    }
    /* Without it a device that was attached anew could pass for one that was not written to. */
    if (!sysfs_read_number(device.disk, "diskseq", &sequence)) {
        return "the kernel does not tell one attachment of it from another (diskseq)";
    }
    if (!read_counters(device.directory, &own) ||
        (device.partition && !read_counters(device.disk, &disk))) {
        return "sysfs has no count of its written sectors";
    }
    builder_init(builder, device.partition ? "partition" : "block");
    builder_string(builder, "boot", context->boot_id);
    builder_number(builder, "diskseq", sequence);
    add_counters(builder, &own, false);
    if (device.partition) {
        add_counters(builder, &disk, true);
    }
    if (block_device_is_loop(&device)) {
        CLEANUP_CLOSE int backing = block_device_backing(&device, fd, &stx);
        if (backing >= 0 && S_ISREG(stx.stx_mode)) {
            builder_number(builder, "backing-size", stx.stx_size);
            builder_time(builder, "backing-mtime", &stx.stx_mtime);
        }
    }
    return NULL;
}

void evidence_of_block(const struct probe_context *context, unsigned major, unsigned minor, int fd,
                       struct drive_probe *ret)
{
    struct builder builder;
    const char *why = collect(context, major, minor, fd, &builder);

    if (why) {
        (void)snprintf(ret->no_evidence, sizeof ret->no_evidence, "%s", why);
    } else {
        builder_finish(&builder, ret->evidence);
    }
}

/* ---- Comparing ---- */

enum key {
    KEY_SIZE,
    KEY_MTIME,
    KEY_BACKING_SIZE,
    KEY_BACKING_MTIME,
    KEY_BOOT,
    KEY_DISKSEQ,
    KEY_WRITTEN,
    KEY_DISCARDED,
    KEY_DISK_WRITTEN,
    KEY_DISK_DISCARDED,
    KEYS,
};

enum kind {
    KIND_FILE = 1,
    KIND_BLOCK = 2,
    KIND_PARTITION = 4,
};

enum form {
    FORM_NUMBER,
    FORM_TIME,
    FORM_ID,
};

static const struct {
    const char *name;
    enum form form;
    unsigned allowed, needed; /* kinds */
    const char *moved;        /* whose it is, or what happened to so many sectors */
} table[KEYS] = {
    [KEY_SIZE] = {"size", FORM_NUMBER, KIND_FILE, KIND_FILE, "its size"},
    [KEY_MTIME] = {"mtime", FORM_TIME, KIND_FILE, KIND_FILE, "its modification time"},
    [KEY_BACKING_SIZE] = {"backing-size", FORM_NUMBER, KIND_BLOCK | KIND_PARTITION, 0,
                          "the size of the file below it"},
    [KEY_BACKING_MTIME] = {"backing-mtime", FORM_TIME, KIND_BLOCK | KIND_PARTITION, 0,
                           "the modification time of the file below it"},
    [KEY_BOOT] = {"boot", FORM_ID, KIND_BLOCK | KIND_PARTITION, KIND_BLOCK | KIND_PARTITION, ""},
    [KEY_DISKSEQ] = {"diskseq", FORM_NUMBER, KIND_BLOCK | KIND_PARTITION,
                     KIND_BLOCK | KIND_PARTITION, ""},
    [KEY_WRITTEN] = {"written", FORM_NUMBER, KIND_BLOCK | KIND_PARTITION,
                     KIND_BLOCK | KIND_PARTITION, "written"},
    [KEY_DISCARDED] = {"discarded", FORM_NUMBER, KIND_BLOCK | KIND_PARTITION, 0, "discarded"},
    [KEY_DISK_WRITTEN] = {"disk-written", FORM_NUMBER, KIND_PARTITION, KIND_PARTITION, ""},
    [KEY_DISK_DISCARDED] = {"disk-discarded", FORM_NUMBER, KIND_PARTITION, 0, ""},
};

struct evidence {
    enum kind kind;
    unsigned present; /* bits of enum key */
    struct {
        uint64_t number;
        int64_t seconds;
        uint32_t nanoseconds;
        const char *text; /* borrowed */
        size_t length;
    } values[KEYS];
};

static bool parse_pair(const char *text, size_t length, struct evidence *ret)
{
    const char *equals = memchr(text, '=', length);
    size_t name = equals ? (size_t)(equals - text) : 0;

    for (unsigned key = 0; equals && key < KEYS; key++) {
        if (strlen(table[key].name) != name || memcmp(table[key].name, text, name) != 0) {
            continue;
        }
        if (!(table[key].allowed & ret->kind) || (ret->present & 1U << key)) {
            return false;
        }
        const char *value = equals + 1;
        size_t value_length = length - name - 1;
        ret->present |= 1U << key;
        ret->values[key].text = value;
        ret->values[key].length = value_length;
        switch (table[key].form) {
        case FORM_NUMBER:
            return parse_number(value, value_length, &ret->values[key].number);
        case FORM_TIME:
            return parse_time(value, value_length, &ret->values[key].seconds,
                              &ret->values[key].nanoseconds);
        case FORM_ID:
            return value_length > 0 && value_length <= BOOT_ID_BYTES_MAX;
        }
    }
    return false;
}

static bool parse(const char *text, struct evidence *ret)
{
    static const struct {
        const char *name;
        enum kind kind;
    } kinds[] = {{"file ", KIND_FILE}, {"block ", KIND_BLOCK}, {"partition ", KIND_PARTITION}};

    *ret = (struct evidence){.present = 0};
    if (strnlen(text, IDENTITY_TEXT_BYTES_MAX + 1) > IDENTITY_TEXT_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strncmp(text, kinds[i].name, strlen(kinds[i].name)) == 0) {
            ret->kind = kinds[i].kind;
            text += strlen(kinds[i].name);
        }
    }
    if (!ret->kind) {
        return false;
    }
    for (;;) {
        size_t length = strcspn(text, " ");
        if (!parse_pair(text, length, ret)) {
            return false;
        }
        if (!text[length]) {
            break;
        }
        text += length + 1;
    }
    for (unsigned key = 0; key < KEYS; key++) {
        if ((table[key].needed & ret->kind) && !(ret->present & 1U << key)) {
            return false;
        }
    }
    return true;
}

static bool same(const struct evidence *a, const struct evidence *b, enum key key)
{
    return a->values[key].length == b->values[key].length &&
           memcmp(a->values[key].text, b->values[key].text, a->values[key].length) == 0;
}

/* Adds why a key speaks for a write. */
static void explain(struct words *words, const struct evidence *then, const struct evidence *now,
                    enum key key)
{
    uint64_t before = then->values[key].number, after = now->values[key].number;

    words_add(words, "%s", words->length > 0 ? "; " : "");
    if (table[key].form == FORM_TIME) {
        /* In milliseconds, unless they are the same then. */
        int digits = then->values[key].seconds == now->values[key].seconds &&
                             then->values[key].nanoseconds / 1000000 ==
                                 now->values[key].nanoseconds / 1000000
                         ? 9
                         : 3;
        words_add(words, "%s moved from ", table[key].moved);
        words_add_time(words, then->values[key].seconds, then->values[key].nanoseconds, digits);
        words_add(words, " to ");
        words_add_time(words, now->values[key].seconds, now->values[key].nanoseconds, digits);
    } else if (key == KEY_SIZE || key == KEY_BACKING_SIZE) {
        words_add(words, "%s went from %" PRIu64 " to %" PRIu64 " bytes", table[key].moved, before,
                  after);
    } else if (after > before) {
        words_add(words, "%" PRIu64 " %s %s %s", after - before,
                  after - before == 1 ? "sector" : "sectors", after - before == 1 ? "was" : "were",
                  table[key].moved);
    } else {
        words_add(words, "the count of sectors %s went back from %" PRIu64 " to %" PRIu64,
                  table[key].moved, before, after);
    }
}

enum evidence_verdict evidence_compare(const char *then_text, const char *now_text, char *ret_words,
                                       size_t words_bytes)
{
    struct evidence then, now;
    struct words words;
    unsigned moved = 0;

    words_init(&words, ret_words, words_bytes);
    if (!parse(then_text, &then)) {
        words_add(&words, *then_text ? "what was recorded of it is not understood"
                                     : "nothing was recorded of it");
        return EVIDENCE_INCOMPARABLE;
    }
    if (!parse(now_text, &now)) {
        words_add(&words, *now_text ? "what is known of it now is not understood"
                                    : "nothing is known of it now");
        return EVIDENCE_INCOMPARABLE;
    }
    if (then.kind != now.kind) {
        words_add(&words, "what was recorded of it is of another kind of drive");
        return EVIDENCE_INCOMPARABLE;
    }
    unsigned both = then.present & now.present;
    for (unsigned key = 0; key < KEYS; key++) {
        if ((both & 1U << key) && !same(&then, &now, key)) {
            moved |= 1U << key;
        }
    }
    /* Counters are of one boot and one attachment; size and times of a file below are not. */
    bool booted = moved & 1U << KEY_BOOT, attached = moved & 1U << KEY_DISKSEQ;
    if (booted || attached) {
        moved &= 1U << KEY_BACKING_SIZE | 1U << KEY_BACKING_MTIME;
    }
    /* All that is written through the partition counts for the disk as well. */
    bool disk = moved & (1U << KEY_DISK_WRITTEN | 1U << KEY_DISK_DISCARDED);
    moved &= ~(1U << KEY_DISK_WRITTEN | 1U << KEY_DISK_DISCARDED);
    if (disk) {
        moved &= ~(1U << KEY_BACKING_MTIME); /* which any partition's writes move */
    }
    for (unsigned key = 0; key < KEYS; key++) {
        if (moved & 1U << key) {
            explain(&words, &then, &now, key);
        }
    }
    if (moved) {
        return EVIDENCE_WRITTEN;
    }
    if (booted) {
        words_add(&words, "the host was booted since, and counters of writes begin anew with it");
        return EVIDENCE_INCOMPARABLE;
    }
    if (attached) {
        words_add(&words,
                  "it was attached anew since, and counters of writes begin anew with that");
        return EVIDENCE_INCOMPARABLE;
    }
    if (disk) {
        words_add(&words, "its disk was written to, and writes to other partitions of the disk "
                          "cannot be told from writes past the partition");
        return EVIDENCE_INCOMPARABLE;
    }
    if (then.present != now.present) {
        words_add(&words, "other things of it are known now than were recorded");
        return EVIDENCE_INCOMPARABLE;
    }
    return EVIDENCE_EQUAL;
}
