/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_IMAGE_H
#define BITMAPD_CLIENT_CTL_IMAGE_H

#include "client/ctl/verbs.h"
#include "daemon/container/container.h"

/* What the offline verbs share (container.c). */

/* Prints the failure of `container VERB`; returns its exit code. */
int image_report(const char *verb, int r, const struct error *error);

/* Opens and locks; failures name the file. */
int image_open_locked(const char *path, enum file_mode mode, bool write, struct file **ret_file,
                      int *ret_fd, struct error *error);

#endif
