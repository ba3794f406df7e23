"""CRIU by its command line, in the best ways that its documentation knows.

Images are on tmpfs (/run is the node's own). What is started beforehand, such as a
listener, is not counted. The scripts of both nodes run at the same time, and each step
follows the one before without a detour over the driver.
"""

import itertools
import socket

import nodes
from nodes import DESTINATION, SOURCE, Failed

PAGES_PORT, IMAGES_PORT = 7708, 7709
OPTIONS = "--shell-job --manage-cgroups=ignore"

_numbers = itertools.count(1)

# Each script gets: directory, pid, the other node's address, ports for pages and images.
_HEAD = f"""
dir=$1 pid=$2 peer=$3 pages=$4 images=$5
criu() {{ command criu "$@" {OPTIONS} && return
  echo "criu $1: $(grep -h Error "$dir"/*.log | tail -n 1)" >&2; exit 1; }}
mkdir -p "$dir"
cd "$dir"
send_images() {{ tar --create --exclude='*.log' --exclude=status . | nc -N "$peer" "$images"; }}
receive_images() {{ nc -l "$images" | tar --extract; }}
"""

FLOOR = """
began=${EPOCHREALTIME/./}
criu dump --tree "$pid" -D "$dir" -o dump.log
criu restore --restore-detached -D "$dir" -o restore.log
echo $((${EPOCHREALTIME/./} - began))
"""

# The pages go to a page server, whose images are on the destination's tmpfs.
PAGE_SERVER_SOURCE = """
criu dump --tree "$pid" -D "$dir" -o dump.log --page-server --address "$peer" --port "$pages"
send_images
"""
PAGE_SERVER_DESTINATION = """
(criu page-server -D "$dir" -o page-server.log --port "$pages") &
receive_images
wait $! || exit
criu restore --restore-detached -D "$dir" -o restore.log
"""

# The dump stays and serves the pages, one by one, and in the end all that are left.
LAZY_SOURCE = """
mkfifo status
(criu dump --tree "$pid" -D "$dir" -o dump.log --lazy-pages --port "$pages" --status-fd 7 7>status) &
head --bytes=1 status >/dev/null
send_images
wait $! || exit
"""
LAZY_DESTINATION = """
mkfifo status
receive_images
(criu lazy-pages -D "$dir" -o lazy-pages.log --page-server --address "$peer" --port "$pages" \
  --status-fd 7 7>status) &
head --bytes=1 status >/dev/null
criu restore --restore-detached -D "$dir" -o restore.log --lazy-pages
wait $! || exit
"""

RECIPES = {
    "page-server": (PAGE_SERVER_SOURCE, PAGE_SERVER_DESTINATION, (PAGES_PORT, IMAGES_PORT)),
    "lazy-pages": (LAZY_SOURCE, LAZY_DESTINATION, (IMAGES_PORT,)),
}


def prepare():
    """Once: CRIU keeps what it finds out about the kernel in /run."""
    for node in (SOURCE, DESTINATION):
        nodes.check(node, ["criu", "check"])


def has(feature):
    return nodes.run(SOURCE, ["criu", "check", "--feature", feature])["status"] == 0


def _arguments(directory, process, peer):
    return (directory, process.pid, socket.gethostbyname(peer), PAGES_PORT, IMAGES_PORT)


def _remove(directory):
    for node in (SOURCE, DESTINATION):
        nodes.run(node, ["rm", "-rf", directory])


def floor_seconds(process):
    """Dump and restore on one node."""
    directory = f"/run/bench-{next(_numbers)}"
    try:
        out = nodes.shell(SOURCE, _HEAD + FLOOR, *_arguments(directory, process, SOURCE))
        return int(out.split()[-1]) / 1e6
    finally:
        _remove(directory)


def move(process, recipe):
    """To the destination; the times when the recipe began and when it was all over."""
    source, destination, ports = RECIPES[recipe]
    directory = f"/run/bench-{next(_numbers)}"
    scripts = []
    try:
        scripts.append(
            nodes.start(
                nodes.run,
                DESTINATION,
                ["bash", "-c", _HEAD + destination, "bench", *_arguments(directory, process, SOURCE)],
            )
        )
        for port in ports:
            nodes.await_listener(DESTINATION, port)
        scripts.append(
            nodes.start(
                nodes.run,
                SOURCE,
                ["bash", "-c", _HEAD + source, "bench", *_arguments(directory, process, DESTINATION)],
            )
        )
        there, here = (script.result() for script in scripts)
        for result in (here, there):
            if result["status"] != 0:
                raise Failed(f"criu, {recipe}: {nodes.last_line(result)}")
        return here["began"], max(here["ended"], there["ended"])
    finally:
        _remove(directory)
