/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything that bitmapctl prints, but for the extents of maps (map.c).
 *
 * A backup script that reads half a list must learn of it: no write to
 * standard output goes unchecked, and the program's exit code is decided
 * after the last flush.
 */
#include "client/ctl/output.h"

#include "client/ctl/exit.h"
#include "client/ctl/text.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <libsmartcols/libsmartcols.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA_VERSION 1

static int write_errno; /* of the first write to standard output that failed */

void output_no_memory(void)
{
    (void)fputs("bitmapctl: out of memory\n", stderr);
    exit(EXIT_FAILED);
}

void output_init(void)
{
    /* Each stand-in refuses what the missing descriptor would have refused. */
    static const int modes[] = {O_WRONLY, O_RDONLY, O_WRONLY};

    for (int fd = 0; fd < 3; fd++) {
        /* open(2) gives the lowest free descriptor, which is this one. */
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd) {
            exit(EXIT_FAILED);
        }
    }
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
}

void output_diagnostic(const char *format, ...)
{
    CLEANUP_FREE char *text = NULL;
    va_list args;

    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        text = NULL;
        output_no_memory();
    }
    (void)fprintf(stderr, "bitmapctl: %s\n", output_text(text));
}

static void note_failure(bool failed)
{
    if (failed && write_errno == 0) {
        write_errno = errno ? errno : EIO;
    }
}

void output_print(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vprintf(format, args);
    va_end(args);
    note_failure(n < 0);
}

void output_write(const void *text, size_t bytes)
{
    /* After a failure there is no use in more: the whole is incomplete. */
    note_failure(write_errno == 0 && fwrite(text, 1, bytes, stdout) != bytes);
}

const char *output_text(const char *text)
{
    static char *texts[4];
    static unsigned next;

    next = (next + 1) % 4;
    free(texts[next]);
    texts[next] = text_for_terminal(text);
    if (!texts[next]) {
        output_no_memory();
    }
    return texts[next];
}

bool output_finish(void)
{
    note_failure(fflush(stdout) != 0);
    if (ferror(stdout) && write_errno == 0) {
        write_errno = EIO;
    }
    note_failure(fclose(stdout) != 0);
    if (write_errno != 0) {
        output_diagnostic("cannot write to standard output: %s", strerror(write_errno));
        return false;
    }
    return true;
}

void output_json_add(json_object *object, const char *key, json_object *value)
{
    if (json_object_object_add(object, key, value) != 0) {
        output_no_memory();
    }
}

void output_json_add_string(json_object *object, const char *key, const char *text)
{
    CLEANUP_FREE char *utf8 = text_as_utf8(text);
    json_object *value = utf8 ? json_object_new_string(utf8) : NULL;

    if (!value) {
        output_no_memory();
    }
    output_json_add(object, key, value);
}

void output_json_add_number(json_object *object, const char *key, uint64_t number)
{
    json_object *value = json_object_new_uint64(number);

    if (!value) {
        output_no_memory();
    }
    output_json_add(object, key, value);
}

void output_json_add_bool(json_object *object, const char *key, bool boolean)
{
    json_object *value = json_object_new_boolean(boolean);

    if (!value) {
        output_no_memory();
    }
    output_json_add(object, key, value);
}

void output_json_append(json_object *array, json_object *value)
{
    if (json_object_array_add(array, value) != 0) {
        output_no_memory();
    }
}

json_object *output_json_new(void)
{
    json_object *object = json_object_new_object();

    if (!object) {
        output_no_memory();
    }
    output_json_add_number(object, "schema_version", SCHEMA_VERSION);
    return object;
}

void output_json_write(json_object *value)
{
    const char *json = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                                 JSON_C_TO_STRING_NOSLASHESCAPE);
    CLEANUP_FREE char *text = json ? text_json_for_terminal(json) : NULL;

    if (!text) {
        output_no_memory();
    }
    note_failure(fputs(text, stdout) == EOF);
    (void)json_object_put(value);
}

void output_json_print(json_object *value)
{
    output_json_write(value);
    output_print("\n");
}

struct output_list {
    enum output_format format;
    json_object *object; /* JSON: the whole, of which @items is a part */
    json_object *items;
    struct libscols_table *table; /* human */
    size_t columns;
};

struct output_list *output_list_new(enum output_format format, const char *key,
                                    const struct output_column *columns, size_t count)
{
    struct output_list *list = calloc(1, sizeof *list);

    if (!list) {
        output_no_memory();
    }
    list->format = format;
    list->columns = count;
    if (format == OUTPUT_JSON) {
        list->object = output_json_new();
        list->items = json_object_new_array();
        if (!list->items) {
            output_no_memory();
        }
        output_json_add(list->object, key, list->items);
    } else if (format == OUTPUT_HUMAN) {
        list->table = scols_new_table();
        if (!list->table) {
            output_no_memory();
        }
        /* Cells are safe already; the library's own encoding depends on the locale. */
        (void)scols_table_enable_noencoding(list->table, 1);
        /* Output is the same on a terminal as in a file.  (Fitting UTF-8 into a terminal's width
         * does not end in a locale that cannot tell its width.) */
        (void)scols_table_set_termforce(list->table, SCOLS_TERMFORCE_NEVER);
        for (size_t i = 0; i < count; i++) {
            if (!scols_table_new_column(list->table, columns[i].heading, 0,
                                        columns[i].right ? SCOLS_FL_RIGHT : 0)) {
                output_no_memory();
            }
        }
    }
    return list;
}

bool output_list_is_json(const struct output_list *list)
{
    return list->format != OUTPUT_HUMAN;
}

void output_list_add_object(struct output_list *list, json_object *object)
{
    if (list->format == OUTPUT_NDJSON) {
        output_json_print(object);
        return;
    }
    json_object_object_del(object, "schema_version"); /* the whole has it */
    output_json_append(list->items, object);
}

void output_list_add_row(struct output_list *list, const char *const *cells)
{
    struct libscols_line *line = scols_table_new_line(list->table, NULL);

    if (!line) {
        output_no_memory();
    }
    for (size_t i = 0; i < list->columns; i++) {
        if (scols_line_set_data(line, i, output_text(cells[i])) != 0) {
            output_no_memory();
        }
    }
}

void output_list_print(struct output_list *list)
{
    if (list->format == OUTPUT_JSON) {
        output_json_print(STEAL(list->object));
    } else if (list->format == OUTPUT_HUMAN) {
        CLEANUP_FREE char *text = NULL;
        if (scols_print_table_to_string(list->table, &text) != 0) {
            output_no_memory();
        }
        /* The library leaves the last line open, and prints nothing for a table without lines. */
        if (text && text[0]) {
            output_print("%s\n", text);
        }
    }
    output_list_free(list);
}

void output_list_free(struct output_list *list)
{
    if (list) {
        (void)json_object_put(list->object);
        scols_unref_table(list->table);
        free(list);
    }
}

void output_list_freep(struct output_list **list)
{
    output_list_free(*list);
}
