/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that have to wait for something before they can be done: bits of sealed bitmaps that are
 * in the container only, or a look at a drive's path.
 *
 * A handler that finds something missing returns -EAGAIN, having changed nothing.  The request is
 * kept, its session takes no others meanwhile, so that each still sees the effect of those before
 * it; when what was missing is there, the request is handled again from the beginning.
 *
 * A path is looked at on libuv's pool, never on the loop.  It may hang for ever, with a thread of
 * the pool; so nobody waits for one longer than PROBE_MS: then it counts as one that cannot be
 * looked at.  While it hangs it is not looked at again, so that a drive takes one thread at most,
 * and not all threads are ever given to paths.
 */
#include "daemon/server/internal.h"

#include "daemon/base/pool.h"
#include "daemon/identity/identity.h"

#include <stddef.h>
#include <string.h>

#define PROBE_MS     5000u
#define PROBES_MAX   (SERVER_POOL_THREADS - 4u)
#define ROUNDS_MAX   16384u /* of one request: each path that it needs looked at takes one */
#define BOOT_ID_SIZE 37

/* A look at a path.  Lives until the pool is done with it, whoever waits. */
struct probe {
    uv_work_t work;            /* while it runs */
    struct server *server;     /* NULL: gone */
    struct deferral *deferral; /* NULL: nobody waits any more */
    bool running;
    bool hangs; /* it was waited for in vain */
    char *path;
    char boot_id[BOOT_ID_SIZE];
    struct drive_probe result;
    int r;
    struct error error;
    TAILQ_ENTRY(probe) entry; /* server->probes */
    struct probe *next;       /* that the deferral has looked at before */
};

struct deferral {
    struct pending *pending; /* holds the request's place in its session */
    struct model_fetch fetch;
    uint8_t *payload; /* owned */
    uint32_t payload_bytes;
    unsigned rounds;
    struct probe *probe; /* under way, or NULL */
    struct probe *seen;  /* all that were looked at for this request */
    uv_timer_t patience; /* with a probe */
};

/* ---- Looking at paths ---- */

static void probe_free(struct probe *probe)
{
    free(probe->path);
    free(probe);
}

static void probe_run(uv_work_t *work)
{
    struct probe *probe = work->data;
    struct drive_probe_options options = {
        .sysfs = "/sys", .udev = "/run/udev", .boot_id = probe->boot_id};

    probe->r = drive_probe(probe->path, &options, &probe->result, &probe->error);
}

static void deferral_go_on(struct deferral *deferral);
static void deferral_fail(struct deferral *deferral, int r, const struct error *error);
static void start_probes(struct server *server);

static void see(struct deferral *deferral, struct probe *probe)
{
    probe->next = deferral->seen;
    deferral->seen = probe;
}

static void probe_done(uv_work_t *work, int status)
{
    struct probe *probe = work->data;
    struct server *server = probe->server;
    struct deferral *deferral = probe->deferral;
    (void)status; /* never cancelled */

    probe->running = false;
    if (server) {
        TAILQ_REMOVE(&server->probes, probe, entry);
        probe->server = NULL;
        server->probes_running--;
        start_probes(server);
    }
    if (!deferral) {
        probe_free(probe);
        return;
    }
    deferral->probe = NULL;
    see(deferral, probe);
    deferral_go_on(deferral);
}

static void start_probes(struct server *server)
{
    struct probe *probe;

    TAILQ_FOREACH (probe, &server->probes, entry) {
        if (server->probes_running >= PROBES_MAX) {
            return;
        }
        if (!probe->running &&
            pool_submit(server->loop, &probe->work, probe_run, probe_done) == 0) {
            probe->running = true;
            server->probes_running++;
        }
    }
}

/* Nobody waits for it any more. */
static void probe_abandon(struct probe *probe)
{
    probe->deferral = NULL;
    if (probe->running) {
        return; /* probe_done() frees it */
    }
    if (probe->server) {
        TAILQ_REMOVE(&probe->server->probes, probe, entry);
    }
    probe_free(probe);
}

void probes_forget_server(struct server *server)
{
    struct probe *probe;

    while ((probe = TAILQ_FIRST(&server->probes))) {
        TAILQ_REMOVE(&server->probes, probe, entry);
        probe->server = NULL;
        if (!probe->running && !probe->deferral) {
            probe_free(probe);
        }
    }
}

static void patience_over(uv_timer_t *timer)
{
    struct deferral *deferral = timer->data;
    struct probe *probe = deferral->probe;
    struct probe *mine = calloc(1, sizeof *mine);

    /* What hangs is left to itself; the request goes on with what it would have found. */
    if (mine) {
        mine->path = strdup(probe->path);
        mine->r = error_set(&mine->error, -ETIMEDOUT, "'%.200s' did not answer within %u seconds",
                            probe->path, PROBE_MS / 1000);
    }
    probe->hangs = probe->running; /* one that did not get its turn may be well */
    probe_abandon(probe);
    deferral->probe = NULL;
    if (mine && mine->path) {
        see(deferral, mine);
        deferral_go_on(deferral);
        return;
    }
    free(mine);
    struct error error;
    error_set(&error, -ENOMEM, "out of memory for a request");
    deferral_fail(deferral, -ENOMEM, &error);
}

static void format_boot_id(const uint8_t id[16], char ret[BOOT_ID_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    unsigned at = 0;

    for (unsigned i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            ret[at++] = '-';
        }
        ret[at++] = digits[id[i] >> 4];
        ret[at++] = digits[id[i] & 15];
    }
    ret[at] = '\0';
}

static bool path_hangs(const struct server *server, const char *path)
{
    const struct probe *probe;

    TAILQ_FOREACH (probe, &server->probes, entry) {
        if (probe->hangs && strcmp(probe->path, path) == 0) {
            return true;
        }
    }
    return false;
}

static int probe_begin(struct deferral *deferral, const char *path)
{
    struct server *server = deferral->pending->server;
    struct probe *probe = calloc(1, sizeof *probe);

    if (probe) {
        probe->path = strdup(path);
    }
    if (!probe || !probe->path) {
        free(probe);
        return -ENOMEM;
    }
    probe->work.data = probe;
    probe->server = server;
    probe->deferral = deferral;
    format_boot_id(model_get_settings(server->model)->boot_id, probe->boot_id);
    deferral->probe = probe;
    bool hangs = path_hangs(server, path);
    TAILQ_INSERT_TAIL(&server->probes, probe, entry);
    if (!hangs) {
        start_probes(server);
    }
    (void)uv_timer_start(&deferral->patience, patience_over, hangs ? 0 : PROBE_MS, 0);
    return 0;
}

int request_look(const struct request *request, const char *path, struct sight *ret)
{
    const struct probe *probe = request->deferral ? request->deferral->seen : NULL;

    while (probe && strcmp(probe->path, path) != 0) {
        probe = probe->next;
    }
    if (!probe) {
        free(request->server->look_at);
        request->server->look_at = strdup(path);
        return request->server->look_at ? -EAGAIN : -ENOMEM;
    }
    *ret = (struct sight){.r = probe->r, .error = &probe->error};
    if (probe->r == 0) {
        ret->size = probe->result.size;
        ret->drive = (struct drive_sight){
            .seen = true,
            .identity = {probe->result.identity, (uint32_t)strlen(probe->result.identity)},
            .evidence = {probe->result.evidence, (uint32_t)strlen(probe->result.evidence)},
        };
    }
    return 0;
}

/* ---- The request ---- */

static void deferral_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void deferral_free(struct deferral *deferral)
{
    struct pending *pending = deferral->pending;

    pending->session->deferral = NULL;
    model_fetch_release(&deferral->fetch);
    if (deferral->probe) {
        probe_abandon(deferral->probe);
    }
    struct probe *probe;
    while ((probe = deferral->seen)) {
        deferral->seen = probe->next;
        probe_free(probe);
    }
    free(deferral->payload);
    pending_free(pending);
    uv_close((uv_handle_t *)&deferral->patience, deferral_closed);
}

static void fetched(struct model_fetch *fetch, int r, const struct error *error);

/* Begins whatever the handler was in want of. */
static int wait_for_it(struct deferral *deferral, struct error *error)
{
    struct server *server = deferral->pending->server;

    if (++deferral->rounds > ROUNDS_MAX) {
        return error_set(error, -EREMOTEIO, "what the request needs changes again and again");
    }
    if (server->look_at) {
        CLEANUP_FREE char *path = STEAL(server->look_at);
        return probe_begin(deferral, path) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
    }
    deferral->fetch.done = fetched;
    return model_fetch(server->model, &deferral->fetch, error);
}

static void deferral_fail(struct deferral *deferral, int r, const struct error *error)
{
    struct pending *pending = deferral->pending;

    reply_errno(pending->session, pending->operation, pending->cookie, r, error);
    deferral_free(deferral);
}

static void deferral_go_on(struct deferral *deferral)
{
    struct pending *pending = deferral->pending;
    struct session *session = pending->session;
    struct error error = {""};

    (void)uv_timer_stop(&deferral->patience);
    struct frame frame = {
        .operation = pending->operation,
        .cookie = pending->cookie,
        .payload = deferral->payload,
        .payload_bytes = deferral->payload_bytes,
    };
    int r = dispatch_again(session, &frame, deferral, &error);
    if (r == -EAGAIN) {
        r = wait_for_it(deferral, &error);
        if (r == 0) {
            return;
        }
    }
    if (r < 0) {
        deferral_fail(deferral, r, &error);
    } else {
        deferral_free(deferral);
    }
}

static void fetched(struct model_fetch *fetch, int r, const struct error *error)
{
    struct deferral *deferral =
        (struct deferral *)((char *)fetch - offsetof(struct deferral, fetch));

    if (r < 0) {
        deferral_fail(deferral, r, error);
    } else {
        deferral_go_on(deferral);
    }
}

int request_defer(const struct request *request, const struct frame *frame, struct error *error)
{
    CLEANUP_FREE struct deferral *deferral = calloc(1, sizeof *deferral);
    CLEANUP_FREE uint8_t *payload = malloc((size_t)frame->payload_bytes + 1);
    struct pending *pending = pending_new(request);

    if (!deferral || !payload || !pending) {
        if (pending) {
            pending_free(pending);
        }
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    if (frame->payload_bytes > 0) {
        memcpy(payload, frame->payload, frame->payload_bytes);
    }
    deferral->pending = pending;
    deferral->payload = STEAL(payload);
    deferral->payload_bytes = frame->payload_bytes;
    (void)uv_timer_init(request->server->loop, &deferral->patience);
    deferral->patience.data = deferral;
    request->session->deferral = deferral;

    struct deferral *begun = STEAL(deferral);
    int r = wait_for_it(begun, error);
    if (r < 0) {
        deferral_free(begun);
    }
    return r;
}
