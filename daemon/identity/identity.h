/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_IDENTITY_IDENTITY_H
#define BITMAPD_DAEMON_IDENTITY_IDENTITY_H

#include "proto/base/error.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Whose drive is under a path, and what tells that somebody wrote to it.
 * Only metadata is looked at (statx(2), statfs(2), sysfs, udev's database);
 * what is in a drive is never read.  A file is not even opened, and needs no
 * permission but that to find it; a block device is opened for reading.
 *
 * All calls may run on any thread.  drive_probe() and drive_probe_block()
 * block, for ever on a hung disk, so they belong on a pool's thread; they
 * keep nothing open and nothing allocated.
 *
 * IDENTITY is a text whose equality, byte for byte, is identity:
 *
 *     file inode=N born=SECONDS.NANOSECONDS|none on DEVICE
 *         inode and birth time: a rename, a write, chown keep them; a copy, a restored file, a file
 *         moved to another file system are others.  DEVICE is the identity of the block device
 *         below the file system, or, where that has none, "fs type=MAGIC fsid=ID" (statfs(2)'s,
 *         made from the file system's UUID by ext4, btrfs, ZFS), or "fs type=MAGIC" where f_fsid
 *         is nothing but the device's number, as in XFS, or 0, as in NFS.  Device numbers are never
 *         part of it: another boot gives others.  Inode numbers are reused: without a birth time
 *         the text is weaker (a file made anew may get the number), and where neither birth time
 *         nor file system can be told (FUSE, NFSv3) it is "".
 *     dm uuid=U               device mapper: LVM-…, mpath-…, CRYPT-… (which has the mapping's name
 *                             in it); "" without a UUID
 *     loop offset=B sizelimit=B over FILE|DEVICE
 *                             what it is attached to, in bytes; "" when the backing file cannot be
 *                             found under its name (removed, in another mount namespace)
 *     partition number=N start=SECTOR of DISK
 *     partition uuid=U        U: PARTUUID, from sysfs or udev; where DISK is ""
 *     scsi wwid=W             the logical unit's designator, as the kernel writes it (naa.…)
 *     scsi vendor=V model=M serial=S          where there is no designator
 *     nvme wwid=W             uuid.…, eui.…, nvme.…; the namespace's
 *     nvme model=M serial=S nsid=N            where there is none
 *     virtio serial=S         as unique as the host has made it
 *     rbd cluster=FSID pool=ID namespace=NS image=ID|image-name=NAME snap=SNAP
 *     md uuid=32 HEX DIGITS   from sysfs or udev
 *     mmc cid=C area=main|boot0|…
 *     ""                      anything else (zram, ram, nbd, a virtio disk without a serial …)
 *
 * What is told does not hang on when one asks.  Where the kernel's sysfs has no PARTUUID (no
 * md/uuid), as in Linux 6.1, and udev does not know a device yet of which it would have to be
 * asked, the identity is "", that of a file on it as well.
 *
 * What it cannot see: two disks to which somebody gave one serial or, as `dd` does, one PARTUUID
 * where DISK is ""; a disk or a volume that was set back to an earlier state in place; the card in
 * a reader (its wwid is the reader's).
 *
 * EVIDENCE is what moves when somebody writes:
 *
 *     file size=BYTES mtime=SECONDS.NANOSECONDS
 *         Not seen: writes after which the times were set back (touch -d, rsync), a store through
 *         mmap to a page that is dirty already, a second write within one tick of the clock (4 ms
 *         before Linux 6.13; a second or two on old file systems).
 *     block boot=ID diskseq=N written=SECTORS [discarded=SECTORS] [backing-size=B backing-mtime=T]
 *     partition … disk-written=SECTORS [disk-discarded=SECTORS] …
 *         Counters of 512-byte sectors, comparable within one boot and one attachment (diskseq):
 *         activating a volume, mapping an image, losetup or an iSCSI login makes another one, and
 *         says nothing of writing.
 *         There are none where the kernel does not count (queue/iostats is 0), where DAX goes
 *         around the count, or without diskseq (before Linux 5.15).  A partition's counter misses
 *         writes to the whole disk, so the disk's goes with it; that one moves for the other
 *         partitions, too, so where it alone moved nothing can be said.  A loop device over a file
 *         has the file's size and mtime as well; its partitions' mtime moves with the disk's count.
 *         Not seen: what is dirty in the page cache still (fsync(2) the device before); writes by
 *         other hosts; writes to the device below a dm or md device, or below a loop device that
 *         is over a device; SCSI commands passed through; writes while queue/iostats was 0 for a
 *         time.
 *
 * Both are printable ASCII: a kind, then KEY=VALUE after a space each.  In values spaces, controls,
 * '=', '%', '~' and bytes above 0x7e are %XX.  A text that would be longer than
 * IDENTITY_TEXT_BYTES_MAX is its beginning, "~", the CRC32C of the whole in hex, "~", and its end;
 * so that two long ones do not become equal by being cut.
 */
#define IDENTITY_TEXT_BYTES_MAX 400

struct drive_probe {
    uint64_t size;                              /* bytes, exact; never 0 */
    char identity[IDENTITY_TEXT_BYTES_MAX + 1]; /* "": the path tells none */
    char evidence[IDENTITY_TEXT_BYTES_MAX + 1]; /* "": there is none; no_evidence says why */
    char no_evidence[200];                      /* in words; "" where there is evidence */
};

/* All strings are borrowed for the call. */
struct drive_probe_options {
    const char *sysfs;   /* "/sys" */
    const char *udev;    /* "/run/udev"; NULL: udev is not asked */
    const char *boot_id; /* of this boot; NULL or "": block devices have no evidence then */
};

/*
 * Looks at the regular file or block device at @path, following links.  A
 * device of which sysfs tells nothing is no failure: its identity is "" then.
 *
 * 0; -EINVAL: neither file nor block device (it is not opened then), or empty;
 * else what open(2), statx(2) or the ioctl failed with.  @error, which may be NULL, names the
 * path; @ret is untouched on failure.
 */
int drive_probe(const char *path, const struct drive_probe_options *options,
                struct drive_probe *ret, struct error *error);

/*
 * The same for a block device of which only number and size (bytes) are
 * known.  It differs in one thing: that the file under a loop device's backing
 * name is the one it is attached to is taken from the name alone.
 * 0; -EINVAL: @size is 0.
 */
int drive_probe_block(unsigned major, unsigned minor, uint64_t size,
                      const struct drive_probe_options *options, struct drive_probe *ret,
                      struct error *error);

enum evidence_verdict {
    EVIDENCE_EQUAL,        /* nothing speaks for a write; no proof that there was none */
    EVIDENCE_WRITTEN,      /* the drive was written to */
    EVIDENCE_INCOMPARABLE, /* nothing can be said: no evidence, another boot, attached anew, … */
};

/*
 * Compares two evidences of one drive, earlier and later; both may be any
 * bytes up to their NUL.  @words (cut at @words_bytes, always terminated
 * unless that is 0) is why, as the rest of a sentence about the drive: "its
 * modification time moved from … to …"; "" for EVIDENCE_EQUAL.
 */
enum evidence_verdict evidence_compare(const char *then, const char *now, char *words,
                                       size_t words_bytes);

/*
 * An identity for a person: "SCSI disk naa.5000c500a1b2c3d4", "partition 2 at sector 2048 of …".
 * What is not understood is passed on, printable; "" becomes "unknown".  Times are UTC.
 * @words is cut at @words_bytes and always terminated, unless that is 0.
 */
void identity_words(const char *identity, char *words, size_t words_bytes);

#endif
