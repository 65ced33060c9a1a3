/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line's parser: what it takes, and that the table it works from
 * is one it can work from.
 */
#include "client/ctl/args.h"
#include "client/lib/bitmapd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORDS_MAX 16

struct parse {
    enum args_result result;
    struct invocation inv;
    const char *noun;
    struct error error;
    char *line; /* that the words point into */
    char *argv[WORDS_MAX + 1];
};

/* Parses "bitmapctl LINE"; words are separated by single spaces. */
static void parse(struct parse *p, const char *line)
{
    int argc = 0;

    memset(p, 0, sizeof *p);
    p->line = strdup(line);
    assert_non_null(p->line);
    p->argv[argc++] = (char *)(uintptr_t) "bitmapctl";
    for (char *word = strtok(p->line, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc < WORDS_MAX);
        p->argv[argc++] = word;
    }
    p->result = args_parse(argc, p->argv, &p->inv, &p->noun, &p->error);
}

static void release(struct parse *p)
{
    invocation_deinit(&p->inv);
    free(p->line);
}

static void test_options_may_stand_anywhere(void **state)
{
    static const char *const lines[] = {
        "-o json -s /s drive add vg0/a --size 10G --durability process-crash --granularity 1M",
        "drive add vg0/a --size 10G --durability process-crash --granularity 1M -ojson -s/s",
        "drive --size 10G add --granularity=1M -o json vg0/a --socket /s "
        "--durability=process-crash",
        "--size=10G drive -o human add -ojson vg0/a --granularity 1M --socket=/s "
        "--durability process-crash",
        "--granularity 1M --size 10G -o json -s /s --durability process-crash -- drive add vg0/a",
        "--granularity 1M --size 10G -o json -s /s --durability process-crash drive -- add vg0/a",
        "--granularity 1M --size 10G -o json -s /s --durability process-crash drive add -- vg0/a",
    };

    (void)state;
    for (int strict = 0; strict < 2; strict++) {
        if (strict) {
            assert_int_equal(setenv("POSIXLY_CORRECT", "1", 1), 0);
        }
        for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
            struct parse p;
            parse(&p, lines[i]);
            assert_int_equal(p.result, ARGS_RUN);
            assert_ptr_equal(p.inv.verb->run, drive_add);
            assert_int_equal(p.inv.operands_count, 1);
            assert_string_equal(p.inv.operands[0], "vg0/a");
            assert_string_equal(p.inv.socket, "/s");
            assert_int_equal(p.inv.format, OUTPUT_JSON);
            assert_int_equal(p.inv.size, UINT64_C(10) << 30);
            assert_int_equal(p.inv.granularity, 1 << 20);
            assert_int_equal(p.inv.durability, BITMAPD_DURABILITY_PROCESS_CRASH);
            assert_false(p.inv.given[OPTION_PATH]);
            release(&p);
        }
    }
    assert_int_equal(unsetenv("POSIXLY_CORRECT"), 0);
}

static void test_operands_are_parsed(void **state)
{
    struct parse p;

    (void)state;
    parse(&p, "bitmap set vg0/d/n 64K 1");
    assert_int_equal(p.result, ARGS_RUN);
    assert_int_equal(p.inv.offset, 65536);
    assert_int_equal(p.inv.length, 1);
    release(&p);

    parse(&p, "bitmap merge d/t d/a d/b d/c d/e");
    assert_int_equal(p.result, ARGS_RUN);
    assert_int_equal(p.inv.operands_count, 5);
    assert_string_equal(p.inv.operands[4], "d/e");
    release(&p);

    parse(&p, "bitmap clear d/n --all");
    assert_int_equal(p.result, ARGS_RUN);
    assert_true(p.inv.given[OPTION_ALL]);
    release(&p);

    parse(&p, "mark d 18446744073709551615 1");
    assert_int_equal(p.result, ARGS_RUN);
    assert_int_equal(p.inv.offset, UINT64_MAX);
    release(&p);

    parse(&p, "mark --hold d --stdin");
    assert_int_equal(p.result, ARGS_RUN);
    assert_true(p.inv.given[OPTION_STDIN] && p.inv.given[OPTION_HOLD]);
    release(&p);

    parse(&p, "map --since c@00010203-0405-0607-0809-0a0b0c0d0e0f vg0/d --until e");
    assert_int_equal(p.result, ARGS_RUN);
    assert_string_equal(p.inv.operands[0], "vg0/d");
    assert_string_equal(p.inv.since, "c@00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert_string_equal(p.inv.until, "e");
    release(&p);

    parse(&p, "verify d --since c --against /copy --drive-path /dev/x");
    assert_int_equal(p.result, ARGS_RUN);
    assert_string_equal(p.inv.against, "/copy");
    assert_string_equal(p.inv.path, "/dev/x");
    release(&p);

    /* A command of one word may share it with an operand. */
    parse(&p, "mark mark 0 1");
    assert_int_equal(p.result, ARGS_RUN);
    assert_string_equal(p.inv.operands[0], "mark");
    release(&p);

    parse(&p, "drive rename drive rename");
    assert_int_equal(p.result, ARGS_RUN);
    assert_string_equal(p.inv.operands[0], "drive");
    assert_string_equal(p.inv.operands[1], "rename");
    release(&p);
}

static void test_help_and_version_win(void **state)
{
    struct parse p;

    (void)state;
    parse(&p, "--help");
    assert_int_equal(p.result, ARGS_HELP);
    assert_null(p.noun);
    assert_null(p.inv.verb);
    release(&p);

    parse(&p, "bitmap -h");
    assert_int_equal(p.result, ARGS_HELP);
    assert_string_equal(p.noun, "bitmap");
    assert_null(p.inv.verb);
    release(&p);

    /* Whoever asks how does not know how. */
    parse(&p, "bitmap create --granularity 3 --nonsense --help");
    assert_int_equal(p.result, ARGS_HELP);
    assert_ptr_equal(p.inv.verb->run, bitmap_create);
    release(&p);

    parse(&p, "--version");
    assert_int_equal(p.result, ARGS_VERSION);
    release(&p);

    /* Behind "--" it is an operand. */
    parse(&p, "drive show -- --help");
    assert_int_equal(p.result, ARGS_USAGE);
    release(&p);
}

static void test_first_mistake_is_named(void **state)
{
    static const struct {
        const char *line;
        const char *words;
    } cases[] = {
        {"", "a command is missing"},
        {"bitmap", "a verb is missing after 'bitmap'"},
        {"bitmaps list", "unknown command 'bitmaps'"},
        {"bitmap lists", "unknown command 'bitmap lists'"},
        {"drive lis", "unknown command 'drive lis'"},
        {"drive add x --siz 1", "unknown option --siz"},
        {"drive add x --siz=1 --granularity 3", "unknown option --siz=1"},
        {"drive list --size 1", "unknown option --size"},
        {"drive remove x --force=yes", "option --force takes no value"},
        {"drive remove x -f", "unknown option -f"},
        {"drive resize x --size", "option --size needs a value"},
        {"drive resize x", "option --size is missing"},
        {"drive show x -o", "option -o needs a value"},
        {"drive add x --size 0", "--size is 0"},
        {"drive add x --size 1.5G", "--size '1.5G' is no size (bytes, or 64K, 1G and so on)"},
        {"drive add x --size 16384P", "--size '16384P' does not fit 64 bits"},
        {"drive set x", "there is nothing to set"},
        {"bitmap create d/n --granularity 4294967296",
         "--granularity '4294967296' is not a power of two from 512 to 2147483648"},
        {"bitmap create d/n --granularity 256",
         "--granularity '256' is not a power of two from 512 to 2147483648"},
        {"bitmap create d/n@x", "DRIVE/NAME 'd/n@x': name has an '@' at byte 1"},
        {"bitmap clear d/n", "OFFSET LENGTH or --all is missing"},
        {"bitmap clear d/n 0", "LENGTH or --all is missing"},
        {"bitmap clear d/n 0 1 --all", "--all goes without OFFSET and LENGTH"},
        {"bitmap merge d/n d/m e/n", "'d/n' and 'e/n' are not of the same drive"},
        {"bitmap merge d/n dd/n", "'d/n' and 'dd/n' are not of the same drive"},
        {"mark d", "OFFSET LENGTH or --stdin is missing"},
        {"mark d 0 1 --stdin", "--stdin goes without OFFSET and LENGTH"},
        {"mark d 0 0", "LENGTH is 0"},
        {"checkpoint create c", "operand DRIVE is missing"},
        {"checkpoint create c vg0/a b vg0/a", "drive 'vg0/a' is there twice"},
        {"checkpoint create c@x d", "NAME 'c@x': name has an '@' at byte 1"},
        {"checkpoint delete d c@x", "NAME 'c@x': what follows the '@' at byte 1 is no UUID"},
        {"map d", "DRIVE/NAME 'd': expected DRIVE/NAME, got no '/'"},
        {"map d --until c", "DRIVE/NAME 'd': expected DRIVE/NAME, got no '/'"},
        {"map d/n --until c", "--until goes with --since only"},
        {"map d/ --since c", "DRIVE 'd/': drive name has an empty part at byte 1"},
        {"map d --since a/b", "--since 'a/b': name has a '/' at byte 1"},
        {"verify d --against f", "option --since is missing"},
        {"verify d --since c", "option --against is missing"},
        {"container create f --cluster-size 4M",
         "--cluster-size '4M' is not a power of two from 512 to 2097152"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parse p;
        parse(&p, cases[i].line);
        assert_int_equal(p.result, ARGS_USAGE);
        assert_string_equal(p.error.text, cases[i].words);
        release(&p);
    }
}

static void test_empty_words(void **state)
{
    static char *const lines[][6] = {
        {"bitmapctl", "drive", "show", ""},       {"bitmapctl", "", "show", "x"},
        {"bitmapctl", "drive", "", "x"},          {"bitmapctl", "container", "info", ""},
        {"bitmapctl", "drive", "list", "-s", ""}, {"bitmapctl", "drive", "list", "--output="},
    };
    struct invocation inv;
    struct error error;
    const char *noun;

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        int argc = 0;
        while (argc < 6 && lines[i][argc]) {
            argc++;
        }
        assert_int_equal(args_parse(argc, lines[i], &inv, &noun, &error), ARGS_USAGE);
        invocation_deinit(&inv);
    }
    /* execve(2) allows an empty argv. */
    assert_int_equal(args_parse(0, (char *const[]){NULL}, &inv, &noun, &error), ARGS_USAGE);
    invocation_deinit(&inv);
}

/* What the parser takes for granted about the table. */
static void test_table_is_sound(void **state)
{
    bool used[OPTIONS] = {false};

    (void)state;
    for (size_t i = 0; i < verbs_count; i++) {
        const struct verb *verb = &verbs[i];
        assert_non_null(verb->run);
        assert_true(verb->operands_min <= verb->operands_max);
        assert_true(verb->operands_max == 0 || verb->operands[0].name);
        assert_true(verb->summary[0] >= 'a' && verb->summary[0] <= 'z');
        assert_int_not_equal(verb->summary[strlen(verb->summary) - 1], '.');
        for (size_t j = 0; j < OPERANDS_MAX && verb->operands[j].name; j++) {
            assert_non_null(strstr(verb->synopsis, verb->operands[j].name));
        }
        for (size_t j = 0; j < VERB_OPTIONS_MAX && verb->options[j] != OPTION_NONE; j++) {
            char text[64];
            assert_true(verb->options[j] >= OPTION_FIRST_OF_VERBS);
            (void)snprintf(text, sizeof text, "--%s", options[verb->options[j]].name);
            assert_non_null(strstr(verb->synopsis, text));
            used[verb->options[j]] = true;
        }
        for (size_t j = 0; j < i; j++) {
            /* A noun is a command itself or has verbs, not both. */
            if (strcmp(verbs[j].noun, verb->noun) == 0) {
                assert_true(verbs[j].verb && verb->verb);
                assert_string_not_equal(verbs[j].verb, verb->verb);
            }
            assert_ptr_not_equal(verbs[j].run, verb->run);
        }
    }
    for (int id = OPTION_NONE + 1; id < OPTIONS; id++) {
        assert_true(id < (int)OPTION_FIRST_OF_VERBS || used[id]);
        assert_non_null(options[id].name);
        assert_non_null(options[id].help);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_may_stand_anywhere),
        cmocka_unit_test(test_operands_are_parsed),
        cmocka_unit_test(test_help_and_version_win),
        cmocka_unit_test(test_first_mistake_is_named),
        cmocka_unit_test(test_empty_words),
        cmocka_unit_test(test_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
