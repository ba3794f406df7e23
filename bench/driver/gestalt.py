"""Migrations by Gestalt, as a user asks for them."""

import dataclasses
import functools
import json
import subprocess
import time

from nodes import DESTINATION, Failed, NotMeasured
from workload import Job



@dataclasses.dataclass
class Migration:
    began: float  # CLOCK_REALTIME around the command
    ended: float
    stats: dict

    def __getitem__(self, name):
        if name not in self.stats:
            raise NotMeasured(f"gestalt reports no {name}")
        return self.stats[name]


def _gestalt(*arguments, timeout=180):
    try:
        return subprocess.run(
            ["gestalt", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"gestalt {arguments[0]} did not come back in {timeout} s") from error


def _why(ended):
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    # CLI11 puts a hint about --help last.
    lines = [line for line in lines if "--help" not in line] or lines or ["no message"]
    return lines[-1].strip().removeprefix("gestalt: ")


def _migrate(pid, mode, options, wait):
    # The others are over when the command is, or, lazy, perhaps never.
    waiting = ["--wait"] if wait and mode in ("post-copy", "hybrid") else []
    began = time.time()
    ended = _gestalt("migrate", pid, DESTINATION, "--mode", mode, "--json", *waiting, *options)
    return began, time.time(), ended


@functools.cache
def refusal(mode, options=()):
    """Why such a migration is not to be had; None if it is. Tried once on a small job."""
    with Job("--mib", 1) as job:
        _, _, ended = _migrate(job.pid, mode, options, wait=True)
    return None if ended.returncode == 0 else _why(ended)


def need(mode, *options):
    why = refusal(mode, tuple(options))
    if why:
        raise NotMeasured(why)


def migrate(job, mode, *options, wait=True):
    """To the destination; with `wait` until all pages are there."""
    began, ended, result = _migrate(job.pid, mode, options, wait)
    if result.returncode != 0:
        raise Failed(f"migration by {mode}: {_why(result)}")
    return Migration(began, ended, json.loads(result.stdout)[0])


def _listed(migration):
    result = _gestalt("migrations", migration["migration_id"], "--json")
    if result.returncode != 0:
        raise Failed(f"gestalt migrations: {_why(result)}")
    stats = json.loads(result.stdout)[0]
    if stats.get("state") == "failed":
        raise Failed(f"the migration failed: {stats.get('error')}")
    return stats


def after_paging(migration, seconds=10):
    """The same migration with what is known of its faults, when all pages have come.

    Until then Gestalt reports zeros, which are no figures.
    """
    deadline = time.monotonic() + seconds
    while (stats := _listed(migration)).get("state") != "done":
        if time.monotonic() > deadline:
            raise NotMeasured(f"all pages were touched, and yet the migration is '{stats.get('state')}'")
        time.sleep(0.02)
    if not stats.get("faults_demand"):
        raise NotMeasured("gestalt reports no demand fault, though every page was fetched by one or beside one")
    return dataclasses.replace(migration, stats=stats)
