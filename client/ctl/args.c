/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line, by the table of verbs.
 *
 * Options may stand before the noun, and which options there are depends on
 * the verb, so the line is read twice with getopt_long(3): first with the
 * options of all verbs to find the first two words, then, without these, with
 * the verb's own.  getopt hands out words and options in the order they stand
 * in (optstring "-"), so that POSIXLY_CORRECT changes nothing.
 *
 * Everything that can be judged without the daemon is judged here, before
 * anything is sent.
 */
#include "client/ctl/args.h"

#include "client/lib/bitmapd.h"
#include "proto/base/checked.h"
#include "proto/base/checkpoint_ref.h"
#include "proto/base/cleanup.h"
#include "proto/base/name.h"
#include "proto/base/size.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define GRANULARITY_MIN  UINT64_C(512)
#define GRANULARITY_MAX  (UINT64_C(1) << 31)
#define CLUSTER_SIZE_MIN UINT64_C(512)
#define CLUSTER_SIZE_MAX (UINT64_C(2) << 20)

#define SHORT_OPTIONS    "-:s:o:h"
#define LONG_BASE        256 /* getopt's value of a long option is LONG_BASE + enum option_id */

/* Fills @table for getopt_long(): options that are good everywhere and @verb's, NULL for all. */
static void long_options(const struct verb *verb, struct option table[OPTIONS])
{
    size_t n = 0;

    for (int id = OPTION_NONE + 1; id < OPTIONS; id++) {
        if (id < (int)OPTION_FIRST_OF_VERBS || !verb || verb_has_option(verb, id)) {
            table[n++] = (struct option){
                .name = options[id].name,
                .has_arg = options[id].argument ? required_argument : no_argument,
                .val = LONG_BASE + id,
            };
        }
    }
    table[n] = (struct option){0};
}

static enum option_id option_of_letter(int letter)
{
    for (int id = OPTION_NONE + 1; id < OPTIONS; id++) {
        if (options[id].letter == letter) {
            return id;
        }
    }
    return OPTION_NONE;
}

/* Whether @word ("--NAME" or "--NAME=…") has an option's whole name. */
static bool is_whole_name(const char *word, const char *name)
{
    size_t n = strlen(name);
    return strncmp(word + 2, name, n) == 0 && (word[2 + n] == '\0' || word[2 + n] == '=');
}

/*
 * The next of @argv, as getopt_long(): 0 and an option's id and argument (or
 * OPTION_NONE and a word), 1 at the end, -EINVAL with words.
 */
static int next_item(int argc, char **argv, const struct option *table, enum option_id *ret_id,
                     const char **ret_argument, struct error *error)
{
    /* Where getopt is going to look; 0 asks it to begin anew. */
    int at = optind ? optind : 1;
    int index = -1;
    int c = getopt_long(argc, argv, SHORT_OPTIONS, table, &index);

    switch (c) {
    case -1:
        return 1;
    case 1:
        *ret_id = OPTION_NONE;
        *ret_argument = optarg;
        return 0;
    case ':':
        return error_set(error, -EINVAL, "option %s needs a value", argv[optind - 1]);
    case '?':
        if (optopt > LONG_BASE) {
            return error_set(error, -EINVAL, "option --%s takes no value",
                             options[optopt - LONG_BASE].name);
        }
        if (optopt != 0) {
            return error_set(error, -EINVAL, "unknown option -%c", optopt);
        }
        return error_set(error, -EINVAL, "unknown option %s", argv[at]);
    default:
        if (c < LONG_BASE) {
            *ret_id = option_of_letter(c);
        } else if (is_whole_name(argv[at], options[c - LONG_BASE].name)) {
            *ret_id = (enum option_id)(c - LONG_BASE);
        } else {
            return error_set(error, -EINVAL, "unknown option %s", argv[at]);
        }
        *ret_argument = optarg;
        return 0;
    }
}

/*
 * Finds up to two words in @argv.  Mistakes are left to the second reading,
 * which knows the verb.
 */
static size_t find_words(int argc, char **argv, int words[2])
{
    struct option table[OPTIONS];
    size_t count = 0;
    int r;

    long_options(NULL, table);
    optind = 0;
    opterr = 0;
    do {
        enum option_id id = OPTION_NONE;
        const char *argument = NULL;
        r = next_item(argc, argv, table, &id, &argument, NULL);
        if (r == 0 && id == OPTION_NONE) {
            words[count++] = optind - 1;
        }
    } while (r <= 0 && count < 2);
    while (count < 2 && optind < argc) { /* behind "--" */
        words[count++] = optind++;
    }
    return count;
}

static bool is_noun(const char *word)
{
    for (size_t i = 0; i < verbs_count; i++) {
        if (strcmp(verbs[i].noun, word) == 0) {
            return true;
        }
    }
    return false;
}

static const struct verb *find_verb(const char *noun, const char *word)
{
    for (size_t i = 0; i < verbs_count; i++) {
        if (strcmp(verbs[i].noun, noun) == 0 &&
            (!verbs[i].verb || (word && strcmp(verbs[i].verb, word) == 0))) {
            return &verbs[i];
        }
    }
    return NULL;
}

static int parse_size(const char *what, const char *text, uint64_t *ret, struct error *error)
{
    int r = size_parse(text, ret);

    if (r == -ERANGE) {
        return error_set(error, -EINVAL, "%s '%s' does not fit 64 bits", what, text);
    }
    if (r < 0) {
        return error_set(error, -EINVAL, "%s '%s' is no size (bytes, or 64K, 1G and so on)", what,
                         text);
    }
    return 0;
}

static int parse_power_of_two(const char *what, const char *text, uint64_t min, uint64_t max,
                              uint32_t *ret, struct error *error)
{
    uint64_t value;
    int r = parse_size(what, text, &value, error);

    if (r < 0) {
        return r;
    }
    if (!is_power_of_two(value) || value < min || value > max) {
        return error_set(error, -EINVAL,
                         "%s '%s' is not a power of two from %" PRIu64 " to %" PRIu64, what, text,
                         min, max);
    }
    *ret = (uint32_t)value;
    return 0;
}

static int parse_durability(const char *text, int *ret, struct error *error)
{
    if (strcmp(text, "power-loss") == 0) {
        *ret = BITMAPD_DURABILITY_POWER_LOSS;
    } else if (strcmp(text, "process-crash") == 0) {
        *ret = BITMAPD_DURABILITY_PROCESS_CRASH;
    } else {
        return error_set(error, -EINVAL,
                         "--durability '%s' is neither power-loss nor process-crash", text);
    }
    return 0;
}

static int parse_output(const char *text, enum output_format *ret, struct error *error)
{
    if (strcmp(text, "human") == 0) {
        *ret = OUTPUT_HUMAN;
    } else if (strcmp(text, "json") == 0) {
        *ret = OUTPUT_JSON;
    } else if (strcmp(text, "ndjson") == 0) {
        *ret = OUTPUT_NDJSON;
    } else {
        return error_set(error, -EINVAL, "--output '%s' is none of human, json, ndjson", text);
    }
    return 0;
}

static int parse_path(const char *what, const char *text, struct error *error)
{
    if (text[0] == '\0') {
        return error_set(error, -EINVAL, "%s is empty", what);
    }
    if (strlen(text) >= PATH_MAX) {
        return error_set(error, -EINVAL, "%s is longer than a path can be", what);
    }
    return 0;
}

static int parse_checkpoint(const char *what, const char *text, struct error *error)
{
    struct checkpoint_ref ref;

    int r = checkpoint_ref_parse(text, strlen(text), &ref, error);
    return r < 0 ? error_prefix(error, r, "%s '%s'", what, text) : 0;
}

static int take_option(struct invocation *inv, enum option_id id, const char *value,
                       struct error *error)
{
    int r = 0;

    inv->given[id] = true;
    switch (id) {
    case OPTION_SOCKET:
        inv->socket = value;
        return parse_path("--socket", value, error);
    case OPTION_OUTPUT:
        return parse_output(value, &inv->format, error);
    case OPTION_AGAINST:
        inv->against = value;
        return parse_path("--against", value, error);
    case OPTION_CLUSTER_SIZE:
        return parse_power_of_two("--cluster-size", value, CLUSTER_SIZE_MIN, CLUSTER_SIZE_MAX,
                                  &inv->cluster_size, error);
    case OPTION_DRIVE_PATH:
        inv->path = value;
        return parse_path("--drive-path", value, error);
    case OPTION_DURABILITY:
        return parse_durability(value, &inv->durability, error);
    case OPTION_GRANULARITY:
        return parse_power_of_two("--granularity", value, GRANULARITY_MIN, GRANULARITY_MAX,
                                  &inv->granularity, error);
    case OPTION_PATH:
        inv->path = value;
        return parse_path("--path", value, error);
    case OPTION_SINCE:
        inv->since = value;
        return parse_checkpoint("--since", value, error);
    case OPTION_UNTIL:
        inv->until = value;
        return parse_checkpoint("--until", value, error);
    case OPTION_SIZE:
        r = parse_size("--size", value, &inv->size, error);
        if (r == 0 && inv->size == 0) {
            r = error_set(error, -EINVAL, "--size is 0");
        }
        return r;
    case OPTION_WRITER:
        inv->writer = value;
        r = name_check(NAME_DRIVE, value, strlen(value), error);
        return r < 0 ? error_prefix(error, r, "--writer '%s'", value) : 0;
    case OPTION_HELP:
    case OPTION_VERSION:
    case OPTION_ALL:
    case OPTION_DISABLED:
    case OPTION_FORCE:
    case OPTION_HOLD:
    case OPTION_INTERNAL:
    case OPTION_REPAIR:
    case OPTION_STDIN:
    case OPTION_NONE:
    case OPTIONS:
        break;
    }
    return 0;
}

static int take_operand(struct invocation *inv, const struct operand *operand, const char *text,
                        struct error *error)
{
    size_t drive_bytes;
    int r;

    switch (operand->kind) {
    case OPERAND_DRIVE:
        r = name_check(NAME_DRIVE, text, strlen(text), error);
        break;
    case OPERAND_NAME:
        r = name_check(NAME_BITMAP, text, strlen(text), error);
        break;
    case OPERAND_CHECKPOINT:
        return parse_checkpoint(operand->name, text, error);
    case OPERAND_MAPPED:
        if (inv->since) {
            r = name_check(NAME_DRIVE, text, strlen(text), error);
            return r < 0 ? error_prefix(error, r, "DRIVE '%s'", text) : 0;
        }
        r = name_split(text, strlen(text), &drive_bytes, error);
        break;
    case OPERAND_BITMAP:
        r = name_split(text, strlen(text), &drive_bytes, error);
        break;
    case OPERAND_OFFSET:
        return parse_size(operand->name, text, &inv->offset, error);
    case OPERAND_LENGTH:
        r = parse_size(operand->name, text, &inv->length, error);
        if (r == 0 && inv->length == 0) {
            r = error_set(error, -EINVAL, "%s is 0", operand->name);
        }
        return r;
    case OPERAND_FILE:
        return parse_path(operand->name, text, error);
    default:
        return -EINVAL;
    }
    return r < 0 ? error_prefix(error, r, "%s '%s'", operand->name, text) : 0;
}

static const struct operand *operand_at(const struct verb *verb, size_t index)
{
    while (index > 0 && (index >= OPERANDS_MAX || !verb->operands[index].name)) {
        index--;
    }
    return &verb->operands[index];
}

static int compare_words(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A drive that is there twice is more likely another one's misspelling than meant. */
static int check_drives_differ(const struct invocation *inv, struct error *error)
{
    size_t count = inv->operands_count - 1;
    CLEANUP_FREE const char **sorted = calloc(count, sizeof *sorted);

    if (!sorted) {
        output_no_memory();
    }
    memcpy(sorted, inv->operands + 1, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_words);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) == 0) {
            return error_set(error, -EINVAL, "drive '%s' is there twice", sorted[i]);
        }
    }
    return 0;
}

/* What the table cannot say: options and operands that go, or do not go, together. */
static int check_combination(const struct invocation *inv, struct error *error)
{
    const struct verb *verb = inv->verb;
    const bool *given = inv->given;

    if (verb->run == drive_add && given[OPTION_PATH] == given[OPTION_SIZE]) {
        return error_set(error, -EINVAL, "exactly one of --path and --size is needed");
    }
    if (verb->run == drive_resize && !given[OPTION_SIZE]) {
        return error_set(error, -EINVAL, "option --size is missing");
    }
    if (verb->run == drive_set && !given[OPTION_DURABILITY] && !given[OPTION_GRANULARITY]) {
        return error_set(error, -EINVAL, "there is nothing to set");
    }
    if (given[OPTION_INTERNAL] && given[OPTION_CLUSTER_SIZE]) {
        return error_set(error, -EINVAL,
                         "--cluster-size goes without --internal: the image has its own");
    }
    if (given[OPTION_UNTIL] && !given[OPTION_SINCE]) {
        return error_set(error, -EINVAL, "--until goes with --since only");
    }
    if (verb->run == verify && (!given[OPTION_SINCE] || !given[OPTION_AGAINST])) {
        return error_set(error, -EINVAL, "option --%s is missing",
                         given[OPTION_SINCE] ? "against" : "since");
    }
    if (verb->run == checkpoint_create) {
        int r = check_drives_differ(inv, error);
        if (r < 0) {
            return r;
        }
    }
    if (given[OPTION_HOLD] && !given[OPTION_STDIN]) {
        return error_set(error, -EINVAL, "--hold goes with --stdin only");
    }
    if (verb->run == bitmap_clear || verb->run == mark) {
        enum option_id instead = verb->run == mark ? OPTION_STDIN : OPTION_ALL;
        if (given[instead] && inv->operands_count > 1) {
            return error_set(error, -EINVAL, "--%s goes without OFFSET and LENGTH",
                             options[instead].name);
        }
        if (!given[instead] && inv->operands_count < 3) {
            return error_set(error, -EINVAL, "%s or --%s is missing",
                             inv->operands_count == 1 ? "OFFSET LENGTH" : "LENGTH",
                             options[instead].name);
        }
    }
    if (verb->run == bitmap_merge) {
        size_t target = 0;
        size_t source = 0;
        (void)name_split(inv->operands[0], strlen(inv->operands[0]), &target, NULL);
        for (size_t i = 1; i < inv->operands_count; i++) {
            const char *name = inv->operands[i];
            (void)name_split(name, strlen(name), &source, NULL);
            if (source != target || memcmp(name, inv->operands[0], target) != 0) {
                return error_set(error, -EINVAL, "'%s' and '%s' are not of the same drive",
                                 inv->operands[0], name);
            }
        }
    }
    return 0;
}

static int take_operands(struct invocation *inv, struct error *error)
{
    const struct verb *verb = inv->verb;

    if (inv->operands_count < verb->operands_min) {
        return error_set(error, -EINVAL, "operand %s is missing",
                         operand_at(verb, inv->operands_count)->name);
    }
    for (size_t i = 0; i < inv->operands_count; i++) {
        if (i >= verb->operands_max) {
            return error_set(error, -EINVAL, "operand '%s' is one too many", inv->operands[i]);
        }
        int r = take_operand(inv, operand_at(verb, i), inv->operands[i], error);
        if (r < 0) {
            return r;
        }
    }
    return check_combination(inv, error);
}

/* The second reading; @argv is without noun and verb.  Stores operands and options. */
static int read_line(int argc, char **argv, struct invocation *inv, struct error *error)
{
    struct option table[OPTIONS];
    int result = 0;
    int r;

    long_options(inv->verb, table);
    optind = 0;
    do {
        enum option_id id = OPTION_NONE;
        const char *argument = NULL;
        struct error here;
        r = next_item(argc, argv, table, &id, &argument, &here);
        if (r == 0 && id == OPTION_NONE) {
            inv->operands[inv->operands_count++] = argument;
        } else if (r == 0) {
            r = take_option(inv, id, argument, &here);
        }
        /* The first mistake is reported, after a look for --help. */
        if (r < 0 && result == 0) {
            result = error_set(error, r, "%s", here.text);
        }
    } while (r <= 0);
    while (optind < argc) {
        inv->operands[inv->operands_count++] = argv[optind++];
    }
    return result;
}

enum args_result args_parse(int argc, char *const *argv, struct invocation *ret,
                            const char **ret_noun, struct error *error)
{
    /* getopt_long() wants an argv that it may reorder. */
    CLEANUP_FREE char **line = calloc((size_t)argc + 2, sizeof *line);
    int words[2];
    int kept = 0;

    *ret = (struct invocation){.durability = BITMAPD_DURABILITY_DEFAULT};
    *ret_noun = NULL;
    ret->operands = calloc((size_t)argc + 1, sizeof *ret->operands);
    if (!line || !ret->operands) {
        output_no_memory();
    }
    if (argc > 0) {
        memcpy(line, argv, (size_t)argc * sizeof *line);
    }
    size_t count = argc > 0 ? find_words(argc, line, words) : 0;
    const char *noun = count > 0 ? line[words[0]] : NULL;
    const char *word = count > 1 ? line[words[1]] : NULL;
    bool known = noun && is_noun(noun);

    if (known) {
        ret->verb = find_verb(noun, word);
        if (!ret->verb) {
            *ret_noun = noun;
        }
    }
    size_t taken = !known ? 0 : ret->verb && ret->verb->verb ? 2 : 1;
    for (int i = 0; i < argc; i++) {
        if (!((taken > 0 && i == words[0]) || (taken > 1 && i == words[1]))) {
            line[kept++] = line[i];
        }
    }
    line[kept] = NULL;

    int r = kept > 0 ? read_line(kept, line, ret, error) : 0;
    if (noun && !known) {
        (void)error_set(error, -EINVAL, "unknown command '%s'", noun);
        return ARGS_USAGE;
    }
    if (known && !ret->verb && word) {
        (void)error_set(error, -EINVAL, "unknown command '%s %s'", noun, word);
        return ARGS_USAGE;
    }
    if (ret->given[OPTION_HELP]) {
        return ARGS_HELP;
    }
    if (ret->given[OPTION_VERSION]) {
        return ARGS_VERSION;
    }
    if (r < 0) {
        return ARGS_USAGE;
    }
    if (!ret->verb) {
        (void)error_set(error, -EINVAL,
                        noun ? "a verb is missing after '%s'" : "a command is missing", noun);
        return ARGS_USAGE;
    }
    return take_operands(ret, error) < 0 ? ARGS_USAGE : ARGS_RUN;
}

void invocation_deinit(struct invocation *invocation)
{
    free(invocation->operands);
    invocation->operands = NULL;
}
