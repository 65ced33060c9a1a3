/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CONFIG_CONFIG_H
#define BITMAPD_CONFIG_CONFIG_H

#include "proto/base/access.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * The daemon's settings, from a YAML file of at most CONFIG_BYTES_MAX without
 * anchors, aliases, tags or more than one document.  One schema table in
 * schema.c names every key with its type, range and default, and drives
 * parsing, defaults, --dump-config and the comparison at reload; only the list
 * of rules, "access", is read by access.c.
 *
 * No function here keeps state of its own; one thread at a time may use a
 * struct config.
 */
#define CONFIG_BYTES_MAX (1u << 20)

enum config_durability {
    CONFIG_POWER_LOSS,
    CONFIG_PROCESS_CRASH,
};

enum config_unproven {
    CONFIG_TRUST,
    CONFIG_UNKNOWN,
};

struct config_access {
    bool given; /* else who administers is the default: see below */
    struct access_rule *rules;
    uint32_t rules_count;
    bool has_default_group; /* there is a group "bitmapd" on this host */
    uint32_t default_group; /* its gid */
};

struct config {
    struct {
        char *path;
        uint32_t mode; /* permission bits; written in octal: 0660 */
        char *group;   /* name, or NULL to leave the socket's group */
    } socket;
    struct {
        char *path;
        uint32_t cluster_size; /* bytes, power of two 512 … 2 MiB; for a new container */
        uint64_t max_size;     /* bytes that the file may grow to; 0: no limit */
    } container;
    struct {
        char *path;             /* of the segments, without their .0 and .1 */
        char *memory_path;      /* of the memory journal's, likewise */
        uint64_t segment_bytes; /* of each; power of two 8 MiB … 1 GiB */
    } journal;
    struct {
        char *path;
    } catalog;
    struct {
        uint64_t interval_ns; /* between write-backs; >= 100 ms */
        uint64_t dirty_limit; /* bytes of changed chunks that start one early; >= 1 MiB */
    } flush;
    struct {
        uint32_t granularity; /* bytes, power of two 512 … 2 GiB */
        int durability;       /* enum config_durability */
    } defaults;
    struct {
        int on_unproven; /* enum config_unproven */
    } identity;
    struct {
        uint32_t count;  /* checkpoints of a drive; 0: no limit */
        uint64_t age_ns; /* of a checkpoint; 0: no limit */
    } retention;
    struct {
        uint32_t connections;             /* at once */
        uint32_t connections_per_user;    /* 0: half of those */
        uint32_t requests_per_connection; /* in flight */
        uint32_t requests_per_user;       /* in flight */
        uint32_t maps_per_connection;     /* in flight */
        uint64_t map_memory;              /* bytes of maps that are made and not yet read */
        uint32_t unsettled_per_writer;    /* marks */
        uint32_t drives;
        uint32_t bitmaps;           /* <= 65535 */
        uint32_t bitmaps_per_drive; /* for who does not administer it to create one more */
        uint64_t memory;         /* bytes of dense bitmap chunks that creating bitmaps may lead to
                                  * in the worst case; 0: no limit */
        uint64_t sealed_memory;  /* bytes of sealed bitmaps kept although the container has them */
        uint32_t catalog_events; /* kept; older ones are deleted */
    } limits;
    struct config_access access;
    struct {
        int level; /* 0 error, 1 warning, 2 notice, 3 info, 4 debug */
    } log;
};

/*
 * Defaults; with @state_dir (may be NULL) the paths are DIR/bitmapd.sock,
 * DIR/bitmaps.qcow2, DIR/journal, DIR/catalog.sqlite3, with DIR as it was given (so a
 * relative one gives paths that config_read() would refuse), else the
 * system's.  -ENOMEM, after which @config may be given to config_deinit().
 */
int config_init(struct config *config, const char *state_dir);
/* Frees the strings; takes an all-zero struct, and leaves one. */
void config_deinit(struct config *config);

/*
 * Reads @path over what @config holds, whole or not at all.  -errno for a file that cannot be
 * read, -EINVAL for one that is wrong: "FILE:LINE:COLUMN: KEY: expected …, got …" (line and
 * column from 1, columns in characters).
 */
int config_read(struct config *config, const char *path, struct error *error);
/* The same from memory; @name stands for the file in errors. */
int config_parse(struct config *config, const char *name, const void *text, size_t bytes,
                 struct error *error);

/* Writes every key with its value as YAML that config_read() takes. */
void config_dump(const struct config *config, FILE *out);

/*
 * Whether a running daemon may go from @old to @new: -EINVAL names the first
 * key that cannot change without a restart (schema.c says which: paths, the
 * socket's owner and mode, cluster size, …).
 */
int config_check_reload(const struct config *old, const struct config *new, struct error *error);

#endif
