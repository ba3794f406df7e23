"""Reading a file again right after a migration of a large process, with a cold cache there.

The nodes share a root file system, which is in memory. So each has a disk of its own, with a file
of the same size at the same place.
"""

import json
import os

import nodes
from gestalt import migrate, need
from nodes import DESTINATION, SOURCE, Failed, NotMeasured
from workload import CONTROL, Job

MIB = 1 << 20
PATH = "/var/tmp/bench-cache"

READER = """
import json, os, sys, time
control, path, mib = sys.argv[1:]
memory = bytearray(os.urandom(1 << 20)) * int(mib)
file = os.open(path, os.O_RDONLY)
buffer = bytearray(1 << 20)
def read():
    began, at = time.monotonic(), 0
    while count := os.preadv(file, [buffer], at):
        at += count
    return {"seconds": time.monotonic() - began, "bytes": at}
def tell(suffix, text):
    with open(control + ".new", "w") as out:
        out.write(text)
    os.rename(control + ".new", control + suffix)
read()
tell(".ready", str(os.getpid()))
while not os.path.exists(control + ".begin"):
    time.sleep(0.0005)
tell(".report", json.dumps(read()))
while not os.path.exists(control + ".end"):
    time.sleep(0.01)
"""

# A file system on the node's disk, mounted where jobs see it. Anew: nothing of it is cached.
MOUNT = """set -e
read -r major minor <"$1/disk-$2"
[ -e /dev/bench-disk ] || mknod -m 600 /dev/bench-disk b "$major" "$minor"
blkid /dev/bench-disk >/dev/null || mkfs.ext4 -q -F -O ^has_journal /dev/bench-disk
nsenter -t "$(pgrep -o -x gestalt-init)" -m sh -ec '
  mkdir -p "$1"
  if mountpoint -q "$1"; then umount "$1"; fi
  mount -o noatime /dev/bench-disk "$1"
  if [ "$(stat -c %s "$1/data" 2>/dev/null)" != "$2" ]; then
    head -c "$2" /dev/urandom >"$1/data"
    umount "$1"
    mount -o noatime /dev/bench-disk "$1"
  fi' mount "$3" "$4" """


class Reader(Job):
    """Has read the file when it is ready, and reads it again when it is told to."""

    def program(self, *options):
        return ["python3", "-c", READER, self.control, *options]


def read_again(hints):
    def run(sizes):
        need("hybrid")
        size = sizes.gib // 2 * MIB
        for node in (SOURCE, DESTINATION):
            if not os.path.exists(f"{CONTROL}/disk-{node}"):
                raise NotMeasured("no loop device to be had for disks")
            nodes.shell(node, MOUNT, CONTROL, node, PATH, size)
        with Reader(f"{PATH}/data", sizes.gib) as job:
            # Until it runs there; some of its memory may follow.
            migration = migrate(job, "hybrid", *([] if hints else ["--no-file-cache"]), wait=False)
            job.begin()
            job._await(".report", 60)
            with open(job.control + ".report") as file:
                again = json.load(file)
            if again["bytes"] != size:
                raise Failed(f"it has read {again['bytes']} bytes of {size}")
            told = migration["file_cache_bytes"]
            if hints and told < size or not hints and told > 0:
                raise Failed(f"the destination was told to read {told} bytes ahead")
            return {"seconds": again["seconds"], "migration_seconds": migration.ended - migration.began}

    return run
