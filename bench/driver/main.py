"""Runs what was asked for, and prints the table. Called by bench/run, on the leader."""

import argparse
import json
import re
import statistics
import sys
import time

import criu
import measures
import nodes
import report
from nodes import Failed, NotMeasured
from series import Sizes

BEGAN = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - BEGAN:3.0f} s] {text}", file=sys.stderr, flush=True)


class Series:
    """All runs of one function, and why there are none."""

    def __init__(self, name, function):
        self.name, self.function = name, function
        self.runs, self.reason, self.failed = [], None, False

    def run(self, sizes):
        if self.reason:
            return
        began = time.monotonic()
        try:
            self.runs.append(self.function(sizes))
            say(f"  {self.name}: {time.monotonic() - began:.1f} s")
        except NotMeasured as why:
            self.reason = str(why)
            say(f"  {self.name}: not measured: {why}")
        except Failed as why:
            self.reason, self.failed = str(why), True
            say(f"  {self.name}: FAILED: {why}")


def medians(needed):
    """Of what there is, when a figure cannot be had."""
    return {
        f"{series.name}_{field}": statistics.median(run[field] for run in series.runs)
        for series in needed
        if series.runs
        for field, value in series.runs[0].items()
        if isinstance(value, (int, float))
    }


def result_of(measure, every):
    needed = [every[name] for name in measure.needs]
    missing = next((series for series in needed if series.failed), None)
    missing = missing or next((series for series in needed if series.reason), None)
    if missing:
        return report.row(measure, None, medians(needed), missing.reason, missing.failed)
    figure = measure.compute(*(series.runs for series in needed))
    return report.row(measure, figure, figure.detail)


def notes():
    lines = [
        "freeze times are gaps that the program itself saw, by CLOCK_REALTIME",
        "floor: criu dump and criu restore of a 1 MiB process on one node, by the command line",
    ]
    if criu.has("mem_dirty_track"):
        lines.append("CRIU's pre-dump rounds: not measured, though this kernel has the soft-dirty bits they need")
    else:
        lines.append("CRIU's pre-dump rounds: not available, this kernel has no soft-dirty bits")
    return lines


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--into", required=True, help="directory of results.json and results.txt")
    arguments = parser.parse_args()
    arguments.sizes = Sizes(gib=256, large=512, region=64) if arguments.quick else Sizes()
    try:
        every = measures.measures(arguments.sizes)
        arguments.wanted = [measure for measure in every if re.search(arguments.only, measure.key)]
    except re.error as error:
        parser.error(f"--only {arguments.only}: {error}")
    if not arguments.wanted:
        parser.error(f"no measure matches '{arguments.only}'; there are: {' '.join(each.key for each in every)}")
    return arguments


def run_groups(arguments):
    """All series that the measures need, by name."""
    needed = {name for measure in arguments.wanted for name in measure.needs}
    every = {}
    for group, members in measures.GROUPS.items():
        chosen = [Series(name, function) for name, function in members.items() if name in needed]
        every |= {series.name: series for series in chosen}
        for number in range(arguments.runs if chosen else 0):
            say(f"{group}, run {number + 1} of {arguments.runs}")
            for series in chosen:
                series.run(arguments.sizes)
    return every


def main():
    arguments = parse_arguments()
    results = {"quick": arguments.quick, "runs": arguments.runs, "machine": report.machine()}
    nodes.await_agents(("leader", nodes.SOURCE, nodes.DESTINATION))
    criu.prepare()
    every = run_groups(arguments)
    results["measures"] = [result_of(measure, every) for measure in arguments.wanted]
    results["samples"] = {name: series.runs for name, series in every.items()}
    results["notes"] = notes()
    results["seconds"] = time.monotonic() - BEGAN
    with open(f"{arguments.into}/results.json", "w") as file:
        json.dump(results, file, indent=1)
    with open(f"{arguments.into}/results.txt", "w") as file:
        file.write(report.table(results) + "\n")
    sys.exit(1 if any(series.failed for series in every.values()) else 0)


if __name__ == "__main__":
    main()
