/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: a configuration file.
 *
 *   - what is refused has words that begin with the file's name;
 *   - what is taken, written out, is taken again and written out the same.
 */
#include "tests/fuzz/target.h"

#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME "fuzz.yaml"
#define MUST(condition)     \
    do {                    \
        if (!(condition)) { \
            abort();        \
        }                   \
    } while (0)

static char *dump(const struct config *config, size_t *ret_bytes)
{
    char *text = NULL;
    FILE *file = open_memstream(&text, ret_bytes);
    MUST(file);
    config_dump(config, file);
    MUST(fclose(file) == 0);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config, again;
    struct error error = {""};
    size_t first_bytes, second_bytes;

    config_init(&config, NULL);
    if (config_parse(&config, NAME, data, size, &error) < 0) {
        MUST(strncmp(error.text, NAME, sizeof NAME - 1) == 0);
        config_deinit(&config);
        return 0;
    }
    char *first = dump(&config, &first_bytes);
    config_init(&again, NULL);
    MUST(config_parse(&again, NAME, first, first_bytes, &error) == 0);
    char *second = dump(&again, &second_bytes);
    MUST(first_bytes == second_bytes && memcmp(first, second, first_bytes) == 0);
    free(first);
    free(second);
    config_deinit(&config);
    config_deinit(&again);
    return 0;
}
