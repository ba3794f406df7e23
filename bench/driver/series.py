"""What is done again and again: each function is one run, and returns what it found.

A series is named in measures.py; runs of all series that one measure compares alternate.
"""

import dataclasses
import json
import os
import time

import criu
import gestalt
import nodes
from gestalt import migrate, need
from nodes import DESTINATION, SOURCE, Failed, NotMeasured
from workload import PROGRAMS, Job, Process

MIB = 1 << 20
PAGE_BYTES = 4096
IPERF_PORT, PINGPONG_PORT = 7710, 7711


@dataclasses.dataclass
class Sizes:
    """MiB; smaller with --quick."""

    gib: int = 1024
    large: int = 4096
    region: int = 256

    def pages_per_second(self, percent):
        return self.gib * MIB // PAGE_BYTES * percent // 100


def workload_options(name, sizes):
    """The five workloads of the comparison with CRIU, and one more write rate."""
    return {
        "idle": ("--mib", sizes.gib),
        "write-1%": ("--mib", sizes.gib, "--work", "write", "--rate", sizes.pages_per_second(1)),
        "write-10%": ("--mib", sizes.gib, "--work", "write", "--rate", sizes.pages_per_second(10)),
        "write-max": ("--mib", sizes.gib, "--work", "write"),
        "sequential": ("--mib", sizes.gib, "--work", "sequential"),
        "random": ("--mib", sizes.gib, "--work", "random", "--set-percent", 25),
    }[name]


def settle(options):
    """A program at work has a moment to get going before it is moved."""
    if "--work" in options:
        time.sleep(0.3)


# --- freeze time and total time ----------------------------------------------


def floor(_sizes):
    with Process("--mib", 1) as process:
        return {"seconds": criu.floor_seconds(process)}


def by_gestalt(mode, options):
    """Moved until all pages are there."""
    need(mode)
    with Job(*options) as job:
        settle(options)
        migration = migrate(job, mode)
        return {
            "memory_bytes": int(options[1]) * MIB,  # after --mib
            "gap_seconds": job.freeze_gap_seconds(),
            "longest_gap_seconds": job.longest_gap_seconds(migration.began, migration.ended),
            "freeze_seconds": migration["freeze_seconds"],
            "total_seconds": migration["total_seconds"],
            "command_seconds": migration.ended - migration.began,
            "stats": migration.stats,
        }


def moved(mode, name):
    return lambda sizes: by_gestalt(mode, workload_options(name, sizes))


def moved_large(mode):
    return lambda sizes: by_gestalt(mode, ("--mib", sizes.large))


def by_criu(recipe, name):
    def run(sizes):
        options = workload_options(name, sizes)
        with Process(*options) as process:
            settle(options)
            began, ended = criu.move(process, recipe)
            return {
                "gap_seconds": process.freeze_gap_seconds(),
                "longest_gap_seconds": process.longest_gap_seconds(began, ended),
                "total_seconds": ended - began,
            }

    return run


# --- the network --------------------------------------------------------------


def iperf3(_sizes):
    """One stream, source to destination."""
    server = nodes.start(nodes.check, DESTINATION, ["iperf3", "-s", "-1", "-p", IPERF_PORT])
    nodes.await_listener(DESTINATION, IPERF_PORT)
    out = nodes.check(SOURCE, ["iperf3", "-c", DESTINATION, "-p", IPERF_PORT, "-t", 2, "-J"])
    server.result()
    return {"bytes_per_second": json.loads(out)["end"]["sum_received"]["bits_per_second"] / 8}


def pingpong(_sizes):
    server = nodes.start(nodes.check, SOURCE, [f"{PROGRAMS}/pingpong", "serve", PINGPONG_PORT])
    nodes.await_listener(SOURCE, PINGPONG_PORT)
    out = nodes.check(DESTINATION, [f"{PROGRAMS}/pingpong", "ask", SOURCE, PINGPONG_PORT, 10000])
    server.result()
    return {"p50_seconds": json.loads(out)["p50_ns"] / 1e9}


# --- demand paging ------------------------------------------------------------


def lazy_sequential(sizes):
    """After the move it reads all its memory once, in order."""
    need("lazy")
    pages = sizes.region * MIB // PAGE_BYTES
    options = ("--work", "sequential", "--count", pages, "--wait", "--touch-all")
    with Job("--mib", sizes.region, *options) as job:
        migration = migrate(job, "lazy", wait=False)
        job.begin()
        job.await_done()
        migration = gestalt.after_paging(migration)
        seconds = job.report()["work_seconds"]
        return {"faults": migration["faults_demand"], "pages": pages, "read_seconds": seconds}


def random_reader(sizes):
    """Reads before, during and after the move. Pages count until the last one had come:
    those it touched later prove nothing."""
    need("post-copy")
    options = workload_options("random", sizes)
    with Job(*options) as job:
        settle(options)
        migration = migrate(job, "post-copy")
        all_there_ns = (migration.began + migration["total_seconds"]) * 1e9
        touched = [distinct for now, *_, distinct in job.report()["samples"] if now <= all_there_ns]
        if not touched or touched[-1] == 0:
            raise Failed("the reader touched nothing between the move and its end")
        return {"faults": migration["faults_demand"], "pages": touched[-1]}


def fault_latency(sizes):
    """Nothing is pushed and nothing fetched ahead: one touch, one page, one answer."""
    need("lazy", "--prefetch", "0")
    pages = sizes.region * MIB // PAGE_BYTES
    options = ("--work", "random", "--count", pages, "--wait", "--touch-all")
    with Job("--mib", sizes.region, *options) as job:
        migration = migrate(job, "lazy", "--prefetch", "0", wait=False)
        job.begin()
        job.await_done()
        migration = gestalt.after_paging(migration)
        if migration["faults_demand"] < pages * 0.9:
            raise Failed(f"{migration['faults_demand']} demand faults for {pages} single touches")
        return {
            "p50_seconds": migration["fault_latency_seconds"]["p50"],
            "touch_p50_seconds": job.report()["touch_p50_ns"] / 1e9,
            "stats": migration.stats,
        }


# --- ghosts -------------------------------------------------------------------


def ghosts(count):
    """In a pid namespace of their own; the leader is where a cluster has them."""
    return lambda _sizes: json.loads(nodes.check("leader", [f"{PROGRAMS}/ghosts", count]))


# --- tracking -----------------------------------------------------------------

_PIN = """for each in /proc/[0-9]*; do taskset --all-tasks --cpu-list --pid "$1" "${each#/proc/}"; done \
  >/dev/null 2>&1 || true"""


def pin_everything(cpus):
    for node in ("leader", SOURCE, DESTINATION):
        nodes.shell(node, _PIN, cpus)


def work_rate(samples, began, ended):
    """Units of work for each second that the worker had, and for each of its CPU time.

    It had the time in which it ran or was blocked. When it waited for the CPU, others had
    it: on a busy machine that changes the rate by a tenth, either way.
    """
    inside = [sample for sample in samples if began * 1e9 <= sample[0] <= ended * 1e9]
    if len(inside) < 50:
        raise Failed(f"only {len(inside)} samples of the work")
    wall, units, cpu, wait, _ = (last - first for first, last in zip(inside[0], inside[-1]))
    return {"had": units / (wall - wait), "cpu": units / cpu, "wall": units / wall}


def tracking(_sizes):
    """What being tracked costs the writer itself.

    A quarter of 256 MiB is written again and again by a thread that has a CPU to itself:
    all other processes of the sandbox are kept on CPU 0, so that copying and sending do
    not count. With the bandwidth limited, the first round lasts four seconds; all pages of
    the set are written within its first tenth of a second, what follows is compared with
    the three seconds before the migration.
    """
    bandwidth = 64 * MIB
    options = ("--bandwidth", str(bandwidth), "--max-rounds", "2")
    if os.cpu_count() < 2:
        raise NotMeasured("it takes two CPUs to tell tracking from copying")
    need("pre-copy", *options)
    pin_everything("0")
    try:
        with Job("--mib", 256, "--work", "fill", "--set-percent", 25, "--cpu", 1) as job:
            time.sleep(3.2)
            migration = migrate(job, "pre-copy", *options)
            first = migration["rounds_detail"][0]
            round_seconds = first["seconds"]
            if first["dirty_pages"] < 0.9 * 64 * MIB // PAGE_BYTES:
                raise Failed(f"{first['dirty_pages']} dirty pages in the first round: it was not tracked")
            if round_seconds < 2:
                raise Failed(f"the first round was over in {round_seconds:.1f} s, in spite of --bandwidth")
            began, samples = migration.began, job.report()["samples"]
            untracked = work_rate(samples, began - 3, began)
            tracked = work_rate(samples, began + 0.5, began + round_seconds - 0.2)
    finally:
        pin_everything(f"0-{os.cpu_count() - 1}")
    return {
        **{f"slow_down_{by}_percent": 100 * (1 - tracked[by] / untracked[by]) for by in untracked},
        "untracked_pages_per_second": untracked["had"] * 1e9,
    }


# --- the wire -----------------------------------------------------------------


def half_zero(mode):
    def run(sizes):
        need(mode)
        with Job("--mib", sizes.region, "--zero-half") as job:
            migration = migrate(job, mode)
            return {"wire_bytes": migration["wire_bytes"], "resident_bytes": sizes.region * MIB}

    return run
