/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps of what was written since a checkpoint, while everything goes on: the answer is of some
 * moment between its being asked for and its being there.
 */
#include "tests/sim/internal.h"

#include <errno.h>
#include <stdlib.h>

struct client_map {
    struct model_union request; /* first */
    struct world *world;
    unsigned drive;
    uint64_t first, end; /* sequences of the two checkpoints; UINT64_MAX: up to now */
    uint64_t asked;      /* sequence of that moment */
    uint64_t size;       /* of the drive, when it was asked for */
    bool dirty[PLACES];  /* when it was asked for */
    bool unknown;        /* … it has to be */
    TAILQ_ENTRY(client_map) entry;
};

/* What was written between the two, as far as it is known now. */
static void look(const struct client_map *map, bool dirty[PLACES])
{
    struct history_shadow *history = &map->world->histories[map->drive];
    const struct prefix now = {.low = UINT64_MAX, .high = UINT64_MAX};
    bool may;

    for (unsigned s = 0; s < SPOTS; s++) {
        marks_look(&history->marks[s], &now, map->first, map->end, &dirty[s], &may);
    }
    dirty[TAIL] = false;
    for (unsigned i = 0; i < history->count; i++) {
        const struct checkpoint_shadow *checkpoint = &history->checkpoints[i];
        if (checkpoint->made >= map->first && checkpoint->made < map->end &&
            checkpoint->deleted <= checkpoint->made) {
            dirty[TAIL] |= spot_now(&checkpoint->tail);
        }
    }
}

static void check(const struct client_map *map)
{
    const struct model_union *request = &map->request;
    const struct bitmap *bits = request->bits;

    assert_non_null(bits);
    assert_int_equal(bitmap_size_bytes(bits), request->size);
    assert_int_equal(bitmap_granularity(bits), request->granularity);
    if (request->validity == VALIDITY_UNKNOWN) {
        assert_true(request->reason[0] != '\0');
        assert_int_equal(bitmap_count(bits), bitmap_granules(bits));
        return;
    }
    assert_false(map->unknown);
    bool later[PLACES];
    look(map, later);
    for (unsigned s = 0; s < PLACES; s++) {
        bool dirty = place_dirty(bits, s);
        if (s == TAIL && request->size != map->size) {
            continue; /* it was cut off, or came, while the map waited */
        }
        if (map->dirty[s] && !dirty) {
            fail_msg("a map lacks a mark (spot %u)", s);
        }
        /* A mark that came between question and answer is forgotten here once the checkpoint has
         * gone, so of a map that was begun later only what must be in it is judged. */
        if (dirty && !map->dirty[s] && !later[s] && request->validity == VALIDITY_EXACT &&
            request->sequence == map->asked) {
            fail_msg("an exact map is dirty without a mark (spot %u)", s);
        }
    }
    if (request->validity == VALIDITY_EXACT && has_stray_bits(bits)) {
        fail_msg("an exact map has stray bits");
    }
}

static void map_end(struct client_map *map)
{
    map->world->outstanding--;
    TAILQ_REMOVE(&map->world->maps, map, entry);
    free(map);
}

static void map_done(struct model_union *request, int r, const struct error *error)
{
    struct client_map *map = (struct client_map *)request;

    if (r == -ENOENT || r == -EBUSY) {
        /* It was deleted before its turn came, or the drive changes again and again. */
        assert_true(error->text[0] != '\0');
    } else if (r < 0) {
        assert_true(map->world->faults || simdir_stopped(map->world->process.dir));
        assert_true(error->text[0] != '\0');
        world_deeds[DEED_FAILED_READ]++;
    } else {
        check(map);
        bitmap_free(request->bits);
        world_deeds[DEED_MAP]++;
    }
    map_end(map);
}

static void expect(struct client_map *map, const struct drive_bitmap *since,
                   const struct drive_bitmap *until)
{
    struct history_shadow *history = &map->world->histories[map->drive];

    map->first = since->checkpoint->sequence;
    map->end = until ? until->checkpoint->sequence : UINT64_MAX;
    look(map, map->dirty);
    for (; since != until; since = TAILQ_NEXT(since, in_history)) {
        const struct checkpoint_shadow *checkpoint = history_find(history, since->checkpoint->uuid);
        assert_non_null(checkpoint);
        map->unknown |= spot_now(&checkpoint->unknown);
    }
}

void world_map(struct world *world, unsigned d)
{
    struct drive *drive = world_drive(world->process.model, d);
    uint64_t random = simdisk_random(&world->process.random);
    const struct drive_bitmap *since = drive ? pick_checkpoint(world, d, &random) : NULL;
    struct error error;

    if (!since) {
        return;
    }
    const struct drive_bitmap *until =
        simdisk_random(&random) % 2 ? TAILQ_NEXT(since, in_history) : NULL;
    while (until && simdisk_random(&random) % 2) {
        until = TAILQ_NEXT(until, in_history);
    }
    struct client_map *map = calloc(1, sizeof *map);
    assert_non_null(map);
    map->world = world;
    map->request.done = map_done;
    map->size = drive->size;
    map->drive = d;
    map->asked = model_sequence(world->process.model);
    expect(map, since, until);
    world->outstanding++;
    TAILQ_INSERT_TAIL(&world->maps, map, entry);
    assert_int_equal(model_union(world->process.model, since, until, &map->request, &error), 0);
}

void world_cancel_maps(struct world *world)
{
    struct client_map *map;

    while ((map = TAILQ_FIRST(&world->maps))) {
        model_union_cancel(&map->request);
        map_end(map);
    }
}
