/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmapctl: one command line, one verb, one exit code.
 *
 * The exit code is the verb's, unless its result could not be written: a
 * script must never take half an answer for a whole one.
 */
#include "client/ctl/args.h"
#include "client/ctl/exit.h"
#include "client/ctl/help.h"
#include "proto/base/cleanup.h"

#include <locale.h>

static int usage_error(const struct invocation *inv, const char *noun, const struct error *error)
{
    const struct verb *verb = inv->verb;
    const char *first = verb ? verb->noun : noun ? noun : "";
    const char *second = verb && verb->verb ? verb->verb : "";

    output_diagnostic("%s%s%s%s%s; see 'bitmapctl%s%s%s%s --help'", first, second[0] ? " " : "",
                      second, first[0] ? ": " : "", error->text, first[0] ? " " : "", first,
                      second[0] ? " " : "", second);
    return verb && verb->usage_code ? verb->usage_code : EXIT_USAGE;
}

int main(int argc, char **argv)
{
    CLEANUP(invocation_deinit) struct invocation inv = {0};
    struct error error = {.text = ""};
    const char *noun = NULL;
    int code = EXIT_DONE;

    output_init();
    /* For the widths in tables: names are UTF-8 whatever the user's locale is. */
    if (!setlocale(LC_CTYPE, "C.UTF-8")) {
        (void)setlocale(LC_CTYPE, "");
    }
    switch (args_parse(argc, argv, &inv, &noun, &error)) {
    case ARGS_RUN:
        code = inv.verb->run(&inv);
        break;
    case ARGS_HELP:
        help_print(noun, inv.verb);
        break;
    case ARGS_VERSION:
        output_print("bitmapctl " BITMAPD_VERSION "\n");
        break;
    case ARGS_USAGE:
        code = usage_error(&inv, noun, &error);
        break;
    }
    return output_finish() ? code : EXIT_FAILED;
}
