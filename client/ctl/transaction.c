/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `bitmapctl transaction`: the verbs themselves, one a line, all or none.
 *
 * A line goes through the parser of the command line, so that a verb takes
 * here what it takes there.  Names hold no spaces, so words are what is between
 * blanks and there is no quoting.  Everything is read and judged before the
 * daemon is asked for anything; diagnostics name the line.
 */
#include "client/lib/bitmapd-transaction.h"

#include "client/ctl/args.h"
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* More than any transaction that fits a request needs, comments included. */
#define INPUT_BYTES_MAX (16u << 20)

DEFINE_CLEANUP(bitmapd_transaction *, bitmapd_transaction_free)

struct script {
    bitmapd_transaction *transaction;
    char *input; /* with a NUL behind it */
    size_t input_bytes;
    size_t line;   /* number of the one that is read */
    size_t *lines; /* of each operation */
    char **words;
};

static int add(bitmapd_transaction *transaction, const struct invocation *inv)
{
    const char *const *operands = (const char *const *)inv->operands;
    size_t more = inv->operands_count - 1; /* behind the first: every verb below has one */
    int (*run)(const struct invocation *) = inv->verb->run;

    if (run == bitmap_create) {
        return bitmapd_transaction_bitmap_create(transaction, operands[0], inv->granularity,
                                                 inv->given[OPTION_DISABLED]);
    }
    if (run == bitmap_delete) {
        return bitmapd_transaction_bitmap_delete(transaction, operands[0]);
    }
    if (run == bitmap_enable) {
        return bitmapd_transaction_bitmap_enable(transaction, operands[0]);
    }
    if (run == bitmap_disable) {
        return bitmapd_transaction_bitmap_disable(transaction, operands[0]);
    }
    if (run == bitmap_rename) {
        return bitmapd_transaction_bitmap_rename(transaction, operands[0], operands[1]);
    }
    if (run == bitmap_set) {
        return bitmapd_transaction_bitmap_set(transaction, operands[0], inv->offset, inv->length);
    }
    if (run == bitmap_clear) {
        return inv->given[OPTION_ALL]
                   ? bitmapd_transaction_bitmap_clear_all(transaction, operands[0])
                   : bitmapd_transaction_bitmap_clear(transaction, operands[0], inv->offset,
                                                      inv->length);
    }
    if (run == bitmap_merge) {
        return bitmapd_transaction_bitmap_merge(transaction, operands[0], operands + 1, more);
    }
    if (run == checkpoint_create) {
        return bitmapd_transaction_checkpoint_create(transaction, operands[0], operands + 1, more);
    }
    if (run == checkpoint_delete) {
        return bitmapd_transaction_checkpoint_delete(transaction, operands[0], operands[1]);
    }
    return -EOPNOTSUPP;
}

/* Options that are about the command as a whole have no place in a line. */
static bool is_about_the_command(const struct invocation *inv)
{
    for (int id = OPTION_NONE + 1; id < (int)OPTION_FIRST_OF_VERBS; id++) {
        if (inv->given[id]) {
            return true;
        }
    }
    return false;
}

static int line_fault(const struct script *script, int code, const char *text)
{
    output_diagnostic("transaction: line %zu: %s", script->line, text);
    return code;
}

static int take_words(struct script *script, int count)
{
    CLEANUP(invocation_deinit) struct invocation inv = {0};
    struct error error = {.text = ""};
    const char *noun = NULL;

    enum args_result result = args_parse(count, script->words, &inv, &noun, &error);
    if (result == ARGS_USAGE) {
        return line_fault(script, EXIT_USAGE, error.text);
    }
    if (result != ARGS_RUN || is_about_the_command(&inv)) {
        return line_fault(script, EXIT_USAGE, "options here are the operation's own only");
    }
    int r = add(script->transaction, &inv);
    if (r == -EOPNOTSUPP) {
        (void)error_set(&error, r, "'%s' is no operation of a transaction",
                        connection_command(&inv));
        return line_fault(script, EXIT_USAGE, error.text);
    }
    if (r < 0) {
        return line_fault(script, exit_from_request(r, 0),
                          bitmapd_transaction_error(script->transaction));
    }
    script->lines[bitmapd_transaction_count(script->transaction) - 1] = script->line;
    return EXIT_DONE;
}

/* One line, which ends with a NUL; its words are cut in place. */
static int take_line(struct script *script, char *line, size_t bytes)
{
    static char program[] = "bitmapctl";
    char *state = NULL;
    int count = 1;

    if (strlen(line) != bytes) {
        return line_fault(script, EXIT_USAGE, "it holds a NUL");
    }
    script->words[0] = program;
    for (char *word = strtok_r(line, " \t", &state); word; word = strtok_r(NULL, " \t", &state)) {
        if (count == 1 && word[0] == '#') {
            return EXIT_DONE;
        }
        script->words[count++] = word;
    }
    script->words[count] = NULL;
    return count == 1 ? EXIT_DONE : take_words(script, count);
}

static int take_input(struct script *script)
{
    char *end = script->input + script->input_bytes;
    int code = EXIT_DONE;

    for (char *line = script->input; line < end && code == EXIT_DONE;) {
        char *newline = memchr(line, '\n', (size_t)(end - line));
        char *stop = newline ? newline : end;
        *stop = '\0';
        script->line++;
        code = take_line(script, line, (size_t)(stop - line));
        line = stop + 1;
    }
    if (code == EXIT_DONE && bitmapd_transaction_count(script->transaction) == 0) {
        output_diagnostic("transaction: standard input has no operation");
        code = EXIT_USAGE;
    }
    return code;
}

static int read_input(struct script *script)
{
    size_t capacity = 0;

    for (;;) {
        if (capacity - script->input_bytes < 2) {
            capacity = capacity ? capacity * 2 : 64u << 10;
            char *input = realloc(script->input, capacity);
            if (!input) {
                output_no_memory();
            }
            script->input = input;
        }
        ssize_t n = read(STDIN_FILENO, script->input + script->input_bytes,
                         capacity - script->input_bytes - 1);
        if (n == 0) {
            script->input[script->input_bytes] = '\0';
            return EXIT_DONE;
        }
        if (n < 0 && errno != EINTR) {
            output_diagnostic("transaction: cannot read standard input: %s", strerror(errno));
            return EXIT_FAILED;
        }
        script->input_bytes += n > 0 ? (size_t)n : 0;
        if (script->input_bytes > INPUT_BYTES_MAX) {
            output_diagnostic("transaction: standard input has more than a transaction can hold");
            return EXIT_USAGE;
        }
    }
}

static int commit(struct script *script, const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    uint64_t sequence = 0;
    size_t position;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    int r = bitmapd_transaction_commit(handle, script->transaction, &sequence);
    if (r < 0 && bitmapd_transaction_failed(script->transaction, &position)) {
        /* For people the line's number stands for the position, with which the words begin. */
        const char *words = strstr(bitmapd_error(handle), ": ");
        script->line = script->lines[position];
        return line_fault(script, exit_from_request(r, bitmapd_status_code(handle)),
                          words ? words + 2 : bitmapd_error(handle));
    }
    code = connection_result(handle, inv, r);
    if (code == EXIT_DONE && inv->format != OUTPUT_HUMAN) {
        json_object *object = output_json_new();
        output_json_add_number(object, "operations",
                               bitmapd_transaction_count(script->transaction));
        output_json_add_number(object, "sequence", sequence);
        output_json_print(object);
    }
    return code;
}

int transaction(const struct invocation *inv)
{
    CLEANUP(bitmapd_transaction_freep)
    bitmapd_transaction *operations = bitmapd_transaction_new();
    CLEANUP_FREE size_t *lines = calloc(BITMAPD_TRANSACTION_OPERATIONS_MAX, sizeof *lines);
    struct script script = {.transaction = operations, .lines = lines};

    if (!operations || !lines) {
        output_no_memory();
    }
    int code = read_input(&script);
    CLEANUP_FREE char *input = script.input;
    if (code != EXIT_DONE) {
        return code;
    }
    /* A word takes two bytes of a line, but for the first, and there are two more. */
    CLEANUP_FREE char **words = calloc(script.input_bytes / 2 + 4, sizeof *words);
    if (!words) {
        output_no_memory();
    }
    script.words = words;
    code = take_input(&script);
    return code == EXIT_DONE ? commit(&script, inv) : code;
}
