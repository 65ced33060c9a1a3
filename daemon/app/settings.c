/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From the configuration to what each layer takes.  Layers do not know the
 * configuration; this is the only place where both meet.
 */
#include "daemon/app/app.h"

#include <grp.h>

void settings_for_model(const struct config *config, struct model_settings *ret)
{
    *ret = (struct model_settings){
        .files = &file_system_posix,
        .container_path = config->container.path,
        .cluster_bits = (uint32_t)__builtin_ctz(config->container.cluster_size),
        .container_bytes_max = config->container.max_size,
        .journal_path = config->journal.path,
        .memory_path = config->journal.memory_path,
        .journal_segment_bytes = config->journal.segment_bytes,
        .catalog_path = config->catalog.path,
        .catalog_events = config->limits.catalog_events,
        .flush_interval_ns = config->flush.interval_ns,
        .flush_dirty_limit = config->flush.dirty_limit,
        .granularity = config->defaults.granularity,
        .durability = config->defaults.durability == CONFIG_PROCESS_CRASH ? DURABILITY_PROCESS_CRASH
                                                                          : DURABILITY_POWER_LOSS,
        .drives_max = config->limits.drives,
        .bitmaps_max = config->limits.bitmaps,
        .memory_max = config->limits.memory,
        .cache_max = config->limits.sealed_memory,
        .retention_count = config->retention.count,
        .retention_age_ns = config->retention.age_ns,
        .unproven_is_unknown = config->identity.on_unproven == CONFIG_UNKNOWN,
        .unsettled_max = config->limits.unsettled_per_writer,
    };
}

void settings_for_server(const struct config *config, struct server_settings *ret)
{
    *ret = (struct server_settings){
        .connections_max = config->limits.connections,
        .user_connections_max = config->limits.connections_per_user,
        .requests_max = config->limits.requests_per_connection,
        .user_requests_max = config->limits.requests_per_user,
        .streams_max = config->limits.maps_per_connection,
        .map_bytes_max = config->limits.map_memory,
        .unsettled_max = config->limits.unsettled_per_writer,
        .drive_bitmaps_max = config->limits.bitmaps_per_drive,
        .rules = config->access.rules,
        .rules_count = config->access.rules_count,
        .admin_group = !config->access.given && config->access.has_default_group
                           ? (gid_t)config->access.default_group
                           : (gid_t)-1,
    };
}

int settings_group(const struct config *config, gid_t *ret, struct error *error)
{
    if (!config->socket.group) {
        *ret = (gid_t)-1;
        return 0;
    }
    const struct group *group = getgrnam(config->socket.group);
    if (!group) {
        return error_set(error, -ENOENT, "socket.group: there is no group '%s'",
                         config->socket.group);
    }
    *ret = group->gr_gid;
    return 0;
}
