/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container check` and its --repair.
 *
 * They take a writer's lock, since a daemon at work has references that no
 * commit has yet.  Without --repair nothing is ever written.
 */
#include "client/ctl/image.h"

#include "client/ctl/exit.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <inttypes.h>

/* Exit codes, qemu-img's. */
enum check_code {
    CHECK_CLEAN = 0,
    CHECK_FAILED = 1,
    CHECK_CORRUPT = 2,
    CHECK_LEAKS = 3,
    CHECK_BUSY = EXIT_BUSY,
};

/* Findings are printed as they come: a file may hold any number of them. */
struct check_job {
    enum output_format format;
    bool begun; /* JSON: the array of findings */
    bool any;
};

static void begin_findings(struct check_job *job)
{
    if (job->format == OUTPUT_JSON && !job->begun) {
        output_print("{\"schema_version\":1,\"findings\":[");
        job->begun = true;
    }
}

/* @kind: of JSON; @word: for people. */
static void print_line(struct check_job *job, const char *kind, const char *word, const char *text)
{
    if (job->format == OUTPUT_HUMAN) {
        output_print("%s: %s\n", word, output_text(text));
        job->any = true;
        return;
    }
    begin_findings(job);
    output_print("%s", job->format == OUTPUT_JSON && job->any ? ",\n" : "");
    job->any = true;
    json_object *object = output_json_new();
    output_json_add_string(object, "kind", kind);
    output_json_add_string(object, "text", text);
    if (job->format == OUTPUT_NDJSON) {
        output_json_print(object);
    } else {
        json_object_object_del(object, "schema_version"); /* the whole has it */
        output_json_write(object);
    }
}

static void print_finding(void *opaque, bool corruption, const char *text)
{
    print_line(opaque, corruption ? "corruption" : "leak", corruption ? "ERROR" : "LEAK", text);
}

static void print_loss(void *opaque, const char *text)
{
    print_line(opaque, "loss", "LOST", text);
}

static void print_summary(struct check_job *job, const struct container_repair_report *report)
{
    const struct container_check_report *left = &report->left;

    if (job->format == OUTPUT_JSON) {
        begin_findings(job);
        output_print("],\"corruptions\":%" PRIu64 ",\"leaks\":%" PRIu64 ",\"repaired\":%" PRIu64
                     ",\"losses\":%" PRIu64 "}\n",
                     left->corruptions, left->leaks, report->repaired, report->losses);
        return;
    }
    if (job->format == OUTPUT_NDJSON) {
        json_object *object = output_json_new();
        output_json_add_number(object, "corruptions", left->corruptions);
        output_json_add_number(object, "leaks", left->leaks);
        output_json_add_number(object, "repaired", report->repaired);
        output_json_add_number(object, "losses", report->losses);
        output_json_print(object);
        return;
    }
    output_print("%s", job->any ? "\n" : "");
    if (report->repaired > 0) {
        output_print("Repaired: %" PRIu64 ".\n", report->repaired);
    }
    if (report->losses > 0) {
        output_print("Lost: %" PRIu64 ". The bitmaps concerned count as unknown.\n",
                     report->losses);
    }
    if (left->corruptions == 0 && left->leaks == 0) {
        output_print(report->repaired > 0 ? "No errors are left.\n" : "No errors were found.\n");
    }
    if (left->corruptions > 0) {
        output_print("Errors: %" PRIu64 ". Bitmaps may be lost; they will count as unknown.\n",
                     left->corruptions);
    }
    if (left->leaks > 0) {
        output_print("Leaked clusters: %" PRIu64 ". They waste space and harm nothing.\n",
                     left->leaks);
    }
}

static int check(const struct invocation *inv, struct check_job *job,
                 struct container_repair_report *ret, struct error *error)
{
    const struct container_repair_calls calls = {
        .found = print_finding, .lost = print_loss, .opaque = job};
    bool repair = inv->given[OPTION_REPAIR];
    CLEANUP(file_closep) struct file *file = NULL;
    int fd;

    int r = image_open_locked(inv->operands[0], repair ? FILE_WRITE : FILE_READ, true, &file, &fd,
                              error);
    if (r < 0) {
        return r;
    }
    r = repair ? container_repair(file, &calls, ret, error)
               : container_check(file, print_finding, job, &ret->left, error);
    return r < 0 ? error_prefix(error, r, "%s", inv->operands[0]) : 0;
}

int image_check(const struct invocation *inv)
{
    struct check_job job = {.format = inv->format};
    struct container_repair_report report = {0};
    struct error error = {.text = ""};

    int r = check(inv, &job, &report, &error);
    if (r < 0) {
        if (job.begun) {
            output_print("]}\n"); /* well-formed, but without a sum */
        }
        (void)image_report("check", r, &error);
        return r == -EBUSY ? CHECK_BUSY : CHECK_FAILED;
    }
    print_summary(&job, &report);
    return report.left.corruptions > 0 ? CHECK_CORRUPT
           : report.left.leaks > 0     ? CHECK_LEAKS
                                       : CHECK_CLEAN;
}
