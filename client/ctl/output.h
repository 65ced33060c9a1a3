/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_OUTPUT_H
#define BITMAPD_CLIENT_CTL_OUTPUT_H

#include <json-c/json_object.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum output_format {
    OUTPUT_HUMAN,
    OUTPUT_JSON,   /* one value */
    OUTPUT_NDJSON, /* one object a line; lists and maps have one line for each item */
};

/*
 * Standard output takes data only, standard error diagnostics only.  A write
 * that fails is remembered, whoever makes it, and output_finish() reports it.
 *
 * When memory is out these functions say so and end the program with
 * EXIT_FAILED: they are called after the work is done, or before it begins.
 */

/*
 * Makes sure that descriptors 0 to 2 are open, so that no socket or container
 * becomes one of them and gets our output, and ignores SIGPIPE and SIGXFSZ,
 * so that a closed pipe or a full quota is a failed write and not our death.
 */
void output_init(void);

/* "bitmapctl: TEXT" as one line on standard error, made fit for a terminal. */
void output_diagnostic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* printf() to standard output.  Text from outside goes through output_text() first. */
void output_print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Bytes as they are. */
void output_write(const void *text, size_t bytes);

/* text_for_terminal() in one of a few buffers: good until four further calls. */
const char *output_text(const char *text);

/* Writes out what is buffered.  False when any write has failed, after a diagnostic. */
bool output_finish(void);

/* ---- JSON ---- */

/* {"schema_version":1} to be added to. */
json_object *output_json_new(void);
void output_json_add_string(json_object *object, const char *key, const char *text);
void output_json_add_number(json_object *object, const char *key, uint64_t number);
void output_json_add_bool(json_object *object, const char *key, bool value);
/* Takes over @value; NULL is JSON's null. */
void output_json_add(json_object *object, const char *key, json_object *value);
/* Takes over @value. */
void output_json_append(json_object *array, json_object *value);
/* Prints @value without a line's end, and frees it. */
void output_json_write(json_object *value);
/* The same as a line. */
void output_json_print(json_object *value);

/* ---- Lists: one object with an array, or a line for each item, or a table ---- */

struct output_column {
    const char *heading;
    bool right; /* aligned */
};

struct output_list;

/* @key: of the JSON array.  The caller ends it with output_list_print(). */
struct output_list *output_list_new(enum output_format format, const char *key,
                                    const struct output_column *columns, size_t count);
/* Whether it takes objects, or else rows. */
bool output_list_is_json(const struct output_list *list);
/* Takes over @object, which has its schema_version from output_json_new(). */
void output_list_add_object(struct output_list *list, json_object *object);
/* One row; @cells are text from anywhere and copied. */
void output_list_add_row(struct output_list *list, const char *const *cells);
void output_list_print(struct output_list *list);
/* Without printing; takes NULL. */
void output_list_free(struct output_list *list);
void output_list_freep(struct output_list **list);

/* Ends the program for want of memory. */
void output_no_memory(void) __attribute__((noreturn));

#endif
