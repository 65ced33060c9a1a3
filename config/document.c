/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libyaml's events turned into a walk over keys, values and lists of values.
 *
 * The event interface is used, not libyaml's document tree or a mapping
 * library, because only events carry the line and column of every scalar, and
 * because a walk that stops at the first fault never builds what a hostile
 * file describes: memory is bounded by libyaml's look-ahead.
 *
 * Invariants: `path` always holds the keys of the mappings that are open and,
 * while `key_pending`, of the value that comes next; keys that got into it are
 * short and printable, so they may go into messages as they are.
 */
#include "config/document.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

struct walk {
    const char *name;
    document_visit visit;
    void *opaque;

    uint32_t documents;
    uint32_t depth;    /* mappings and lists that are open */
    uint32_t mappings; /* of these */
    bool key_pending;  /* the next node is the value of the path's last key */
    char path[(DOCUMENT_DEPTH_MAX + 1) * (DOCUMENT_KEY_BYTES_MAX + 1)];
    bool is_list[DOCUMENT_DEPTH_MAX + DOCUMENT_LISTS_MAX + 1];
    /* Where the last key in each of them begins; a list has that of the mapping around it. */
    size_t key_start[DOCUMENT_DEPTH_MAX + DOCUMENT_LISTS_MAX + 1];
    struct document_place key_place;
};

static struct document_place place_from_mark(yaml_mark_t mark)
{
    return (struct document_place){.line = mark.line + 1, .column = mark.column + 1};
}

int document_error(struct error *error, const char *name, struct document_place place,
                   const char *path, const char *format, ...)
{
    char words[sizeof error->text];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return error_set(error, -EINVAL, "%s:%zu:%zu: %s%s%s", name, place.line, place.column, path,
                     path[0] ? ": " : "", words);
}

/* Decodes one well-formed sequence (RFC 3629); 0 when there is none. */
static size_t utf8_decode(const uint8_t *p, size_t left, uint32_t *ret_character)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80             ? 1
               : (p[0] & 0xe0) == 0xc0 ? 2
               : (p[0] & 0xf0) == 0xe0 ? 3
               : (p[0] & 0xf8) == 0xf0 ? 4
                                       : 0;
    if (n == 0 || n > left) {
        return 0;
    }
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3fu);
    }
    if (c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret_character = c;
    return n;
}

size_t document_printable(const char *text, size_t bytes)
{
    uint32_t c;
    size_t n = utf8_decode((const uint8_t *)text, bytes, &c);

    if (n == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
        c == 0xfeff || (c & 0xfffe) == 0xfffe) {
        return 0;
    }
    return n;
}

const char *document_got(const struct document_node *node, char buffer[DOCUMENT_GOT_BYTES])
{
    static const char ellipsis[] = "…";

    switch (node->kind) {
    case DOCUMENT_NOTHING:
        return "nothing";
    case DOCUMENT_MAPPING:
        return "a mapping";
    case DOCUMENT_LIST:
        return "a list";
    case DOCUMENT_SCALAR:
        break;
    }
    char *out = buffer;
    *out++ = '"';
    for (size_t i = 0; i < node->text_bytes;) {
        /* Room for one escape, the ellipsis, the quote and the NUL. */
        if (out + 4 + sizeof ellipsis + 2 > buffer + DOCUMENT_GOT_BYTES) {
            out = stpcpy(out, ellipsis);
            break;
        }
        size_t n = document_printable(node->text + i, node->text_bytes - i);
        if (n == 0) {
            out += sprintf(out, "\\x%02x", (uint8_t)node->text[i]);
            n = 1;
        } else {
            out = mempcpy(out, node->text + i, n);
        }
        i += n;
    }
    strcpy(out, "\"");
    return buffer;
}

/* Where byte @offset of the text stands, for the errors that libyaml gives as an offset only. */
static struct document_place place_from_offset(const char *text, size_t bytes, size_t offset)
{
    struct document_place place = {.line = 1, .column = 1};

    for (size_t i = 0; i < bytes && i < offset; i++) {
        if (text[i] == '\n') {
            place.line++;
            place.column = 1;
        } else if (((uint8_t)text[i] & 0xc0) != 0x80) {
            place.column++;
        }
    }
    return place;
}

static int error_from_parser(const struct walk *walk, const yaml_parser_t *parser, const char *text,
                             size_t bytes, struct error *error)
{
    switch (parser->error) {
    case YAML_MEMORY_ERROR:
        return error_set_errno(error, -ENOMEM, "%s", walk->name);
    case YAML_READER_ERROR:
        return document_error(
            error, walk->name, place_from_offset(text, bytes, parser->problem_offset), "",
            "expected printable UTF-8, got byte 0x%02x: %s",
            parser->problem_offset < bytes ? (uint8_t)text[parser->problem_offset] : 0u,
            parser->problem);
    default:
        return document_error(error, walk->name, place_from_mark(parser->problem_mark), walk->path,
                              "expected YAML, got a syntax error%s%s: %s",
                              parser->context ? " " : "", parser->context ? parser->context : "",
                              parser->problem ? parser->problem : "unknown problem");
    }
}

static bool key_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

/* Makes the node the current key of the innermost mapping. */
static int walk_key(struct walk *walk, const struct document_node *node, struct error *error)
{
    bool usable = node->kind == DOCUMENT_SCALAR && node->text_bytes > 0 &&
                  node->text_bytes <= DOCUMENT_KEY_BYTES_MAX;
    for (size_t i = 0; usable && i < node->text_bytes; i++) {
        usable = key_character(node->text[i]);
    }
    if (!usable) {
        char got[DOCUMENT_GOT_BYTES];
        return document_error(error, walk->name, node->place, walk->path,
                              "expected a key of at most %d letters, digits, '_' or '-', got %s",
                              DOCUMENT_KEY_BYTES_MAX, document_got(node, got));
    }
    size_t length = strlen(walk->path);
    if (length > 0) {
        walk->path[length++] = '.';
    }
    walk->key_start[walk->depth] = length;
    memcpy(walk->path + length, node->text, node->text_bytes + 1);
    walk->key_place = node->place;
    walk->key_pending = true;
    return 0;
}

/* Forgets the current key of the innermost mapping: its value is complete. */
static void walk_key_done(struct walk *walk)
{
    if (walk->is_list[walk->depth]) {
        return; /* the key is the list's, which goes on */
    }
    size_t start = walk->key_start[walk->depth];
    walk->path[start > 0 ? start - 1 : 0] = '\0';
    walk->key_pending = false;
}

/* Enters a mapping or list that is visited already. */
static int walk_open(struct walk *walk, const struct document_node *node, struct error *error)
{
    bool list = node->kind == DOCUMENT_LIST;
    uint32_t lists = walk->depth - walk->mappings;

    if (list && lists == DOCUMENT_LISTS_MAX) {
        return document_error(error, walk->name, node->place, walk->path,
                              "expected at most %d lists inside one another, got more",
                              DOCUMENT_LISTS_MAX);
    }
    if (!list && walk->mappings == DOCUMENT_DEPTH_MAX) {
        return document_error(error, walk->name, node->place, walk->path,
                              "expected at most %d mappings inside one another, got more",
                              DOCUMENT_DEPTH_MAX);
    }
    walk->depth++;
    walk->mappings += !list;
    walk->is_list[walk->depth] = list;
    walk->key_start[walk->depth] = walk->key_start[walk->depth - 1];
    walk->key_pending = false;
    return 0;
}

static void walk_close(struct walk *walk, bool list)
{
    walk->depth--;
    walk->mappings -= !list;
    walk_key_done(walk);
}

static int walk_value(struct walk *walk, struct document_node *node, struct error *error)
{
    node->item = walk->is_list[walk->depth];
    node->path = walk->path;
    node->key = walk->path + walk->key_start[walk->depth];
    node->key_place = walk->depth > 0 && !node->item ? walk->key_place : node->place;

    int r = walk->visit(walk->opaque, node, error);
    if (r != 0) {
        return r;
    }
    if (node->kind == DOCUMENT_MAPPING || node->kind == DOCUMENT_LIST) {
        return walk_open(walk, node, error);
    }
    walk_key_done(walk);
    return 0;
}

static bool is_nothing(const yaml_event_t *event)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};

    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) {
        return false;
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp((const char *)event->data.scalar.value, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int walk_node(struct walk *walk, const yaml_event_t *event, struct error *error)
{
    struct document_node node = {.place = place_from_mark(event->start_mark)};
    const yaml_char_t *anchor, *tag;

    switch (event->type) {
    case YAML_SCALAR_EVENT:
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        node.kind = is_nothing(event) ? DOCUMENT_NOTHING : DOCUMENT_SCALAR;
        node.text = (const char *)event->data.scalar.value;
        node.text_bytes = event->data.scalar.length;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        node.kind = DOCUMENT_MAPPING;
        break;
    default:
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
        node.kind = DOCUMENT_LIST;
        break;
    }
    if (anchor || tag) {
        return document_error(error, walk->name, node.place, walk->path,
                              "expected a plain value, got one with %s",
                              anchor ? "an anchor" : "a tag");
    }
    if (walk->depth > 0 && !walk->is_list[walk->depth] && !walk->key_pending) {
        return walk_key(walk, &node, error);
    }
    return walk_value(walk, &node, error);
}

static int walk_event(struct walk *walk, const yaml_event_t *event, struct error *error)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (walk->documents++ > 0) {
            return document_error(error, walk->name, place_from_mark(event->start_mark), "",
                                  "expected one YAML document, got a second one");
        }
        return 0;
    case YAML_ALIAS_EVENT:
        return document_error(error, walk->name, place_from_mark(event->start_mark), walk->path,
                              "expected a plain value, got an alias");
    case YAML_SCALAR_EVENT:
    case YAML_MAPPING_START_EVENT:
    case YAML_SEQUENCE_START_EVENT:
        return walk_node(walk, event, error);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        walk_close(walk, event->type == YAML_SEQUENCE_END_EVENT);
        return 0;
    default: /* starts and ends of stream and document */
        return 0;
    }
}

int document_walk(const char *name, const void *text, size_t bytes, document_visit visit,
                  void *opaque, struct error *error)
{
    struct walk walk = {.name = name, .visit = visit, .opaque = opaque};
    CLEANUP(yaml_parser_delete) yaml_parser_t parser = {0};

    if (!yaml_parser_initialize(&parser)) {
        return error_set_errno(error, -ENOMEM, "%s", name);
    }
    /* UTF-8 with or without its byte order mark, which libyaml itself would take as a column once
     * the encoding is set; and it has to be set, or marks of UTF-16 would be believed. */
    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text = (const char *)text + 3;
        bytes -= 3;
    }
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, text, bytes);
    for (;;) {
        CLEANUP(yaml_event_delete) yaml_event_t event = {0};
        if (!yaml_parser_parse(&parser, &event)) {
            return error_from_parser(&walk, &parser, text, bytes, error);
        }
        if (event.type == YAML_STREAM_END_EVENT) {
            return 0;
        }
        int r = walk_event(&walk, &event, error);
        if (r != 0) {
            return r;
        }
    }
}
