/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Help, from the table of verbs alone: what it lists is what exists.
 */
#include "client/ctl/help.h"

#include <stdio.h>
#include <string.h>

#define OPTION_COLUMN_BYTES 26

static void print_option(enum option_id id)
{
    const struct option_entry *option = &options[id];
    char text[64];

    (void)snprintf(text, sizeof text, "%c%c%s--%s%s%s", option->letter ? '-' : ' ',
                   option->letter ? option->letter : ' ', option->letter ? ", " : "  ",
                   option->name, option->argument ? " " : "",
                   option->argument ? option->argument : "");
    output_print("  %-*s %s\n", OPTION_COLUMN_BYTES, text, option->help);
}

static void print_command(const char *indent, const struct verb *verb)
{
    output_print("%s%s%s%s%s%s\n", indent, verb->noun, verb->verb ? " " : "",
                 verb->verb ? verb->verb : "", verb->synopsis[0] ? " " : "", verb->synopsis);
}

static void print_verb(const struct verb *verb)
{
    print_command("usage: bitmapctl [OPTION...] ", verb);
    output_print("\n%c%s.\n", verb->summary[0] - 'a' + 'A', verb->summary + 1);
    if (verb->details) {
        output_print("%s\n", verb->details);
    }
    if (verb->options[0] != OPTION_NONE) {
        output_print("\nOptions:\n");
        for (size_t i = 0; i < VERB_OPTIONS_MAX && verb->options[i] != OPTION_NONE; i++) {
            print_option(verb->options[i]);
        }
    }
}

static void print_verbs(const char *noun)
{
    for (size_t i = 0; i < verbs_count; i++) {
        if (!noun || strcmp(verbs[i].noun, noun) == 0) {
            print_command("  ", &verbs[i]);
            output_print("        %s\n", verbs[i].summary);
        }
    }
}

void help_print(const char *noun, const struct verb *verb)
{
    if (verb) {
        print_verb(verb);
    } else {
        output_print("usage: bitmapctl [OPTION...] %s [OPERAND...]\n", noun ? noun : "COMMAND");
        if (!noun) {
            output_print("Manages bitmapd, which keeps dirty bitmaps of raw drives.\n");
        }
        output_print("\nCommands:\n");
        print_verbs(noun);
    }
    output_print("\nOptions everywhere:\n");
    for (int id = OPTION_NONE + 1; id < (int)OPTION_FIRST_OF_VERBS; id++) {
        print_option(id);
    }
    if (!noun && !verb) {
        output_print(
            "\nSIZE, OFFSET and LENGTH are bytes, or take K, M, G, T, P (powers of 1024).\n"
            "CHECKPOINT is a checkpoint's NAME, or NAME@UUID to be sure.\n"
            "\"bitmapctl COMMAND --help\" tells more about each; see also bitmapctl(1).\n");
    }
}
