/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_POOL_H
#define BITMAPD_DAEMON_BASE_POOL_H

#include <uv.h>

/*
 * uv_queue_work(), or -EAGAIN where the host has no threads left for libuv's pool: libuv makes all
 * of them at the first work, and aborts the process when it cannot.  From the loop's thread only.
 */
int pool_submit(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb done);

#endif
