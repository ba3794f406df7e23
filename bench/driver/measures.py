"""The table: what is measured, from which series, against which target."""

import dataclasses
import statistics
from collections.abc import Callable

import deputy
import filecache
import network
import series
import start
import view
from series import by_criu, half_zero, moved, moved_large

# Name, how a run is made. Groups: runs of one group's series alternate.
GROUPS = {
    "memory": {
        "floor": series.floor,
        "iperf3": series.iperf3,
        "eager": moved("eager", "idle"),
        "post-copy": moved("post-copy", "idle"),
        "post-copy-large": moved_large("post-copy"),
        "pre-copy-1%": moved("pre-copy", "write-1%"),
        "hybrid-idle": moved("hybrid", "idle"),
        "hybrid-1%": moved("hybrid", "write-1%"),
        "hybrid-10%": moved("hybrid", "write-10%"),
        "hybrid-max": moved("hybrid", "write-max"),
    },
    "paging": {
        "lazy-sequential": series.lazy_sequential,
        "random-reader": series.random_reader,
        "pingpong": series.pingpong,
        "fault-latency": series.fault_latency,
    },
    "tracking": {"tracking": series.tracking},
    "network": {
        "peers-eager": network.pauses("eager"),
        "peers-post-copy": network.pauses("post-copy"),
        "redis": network.redis,
    },
    "deputy": {
        "deputy-freeze": deputy.freezes,
        "deputy-memory": deputy.memory,
        "deputy-home": deputy.home,
        "deputy-relay": deputy.relay,
        "deputy-iperf3": series.iperf3,
    },
    "start": {"run": start.gestalt_run, "ssh": start.ssh},
    "file-cache": {"read-hinted": filecache.read_again(True), "read-cold": filecache.read_again(False)},
    "ghosts": {"ghosts-1000": series.ghosts(1000), "ghosts-10000": series.ghosts(10000)},
    "view": {"view": view.view},
    "wire": {"half-zero-eager": half_zero("eager"), "half-zero-hybrid": half_zero("hybrid")},
}

# The mode of ours that suits the workload best.
BEST_MODE = {
    "idle": "pre-copy",
    "write-1%": "hybrid",
    "write-max": "post-copy",
    "sequential": "post-copy",
    "random": "post-copy",
}
RECIPES = ("page-server", "lazy-pages")

for _name, _mode in BEST_MODE.items():
    GROUPS[f"criu-{_name}"] = {
        f"ours-{_name}": moved(_mode, _name),
        **{f"{recipe}-{_name}": by_criu(recipe, _name) for recipe in RECIPES},
    }


@dataclasses.dataclass
class Figure:
    """A median with the lowest and the highest of the single runs, and its parts."""

    value: float
    low: float
    high: float
    detail: dict


@dataclasses.dataclass
class Measure:
    key: str
    text: str
    target: str  # "<= 1.5"
    needs: tuple
    compute: Callable  # lists of runs, one for each series of needs -> Figure
    unit: str = "ratio"

    def met(self, value):
        relation, limit = self.target.split()
        return {"<=": value <= float(limit), ">=": value >= float(limit), "<": value < float(limit)}[relation]


def median(runs, name):
    return statistics.median(run[name] for run in runs)


def ratio(above, below, **detail):
    """Of two lists of values: medians divided; the spread from run against run."""
    pairs = [one / other for one, other in zip(above, below)]
    return Figure(statistics.median(above) / statistics.median(below), min(pairs), max(pairs), detail)


def pick(runs, name):
    return [run[name] for run in runs]


def of_runs(values, **detail):
    return Figure(statistics.median(values), min(values), max(values), detail)


def freeze_to_floor(floor, runs):
    return ratio(
        pick(runs, "gap_seconds"),
        pick(floor, "seconds"),
        gap_seconds=median(runs, "gap_seconds"),
        reported_freeze_seconds=median(runs, "freeze_seconds"),
        floor_seconds=median(floor, "seconds"),
    )


def worst_freeze(floor, *rates):
    figures = [freeze_to_floor(floor, runs) for runs in rates]
    worst = max(figures, key=lambda figure: figure.value)
    worst.detail["ratios_idle_1%_10%_max"] = [round(figure.value, 2) for figure in figures]
    return worst


def eager_rate(iperf, eager):
    rates = [run["memory_bytes"] / run["total_seconds"] for run in eager]
    return ratio(
        rates,
        pick(iperf, "bytes_per_second"),
        bytes_per_second=statistics.median(rates),
        iperf3_bytes_per_second=median(iperf, "bytes_per_second"),
    )


def totals(runs, others):
    return ratio(
        pick(runs, "total_seconds"),
        pick(others, "total_seconds"),
        post_copy_total_seconds=median(runs, "total_seconds"),
        eager_total_seconds=median(others, "total_seconds"),
    )


def faults_for_pages(runs):
    return of_runs(
        [run["faults"] / run["pages"] for run in runs],
        faults_demand=median(runs, "faults"),
        pages_touched=median(runs, "pages"),
        read_seconds=median(runs, "read_seconds"),
    )


def faults_avoided(runs):
    return of_runs(
        [1 - run["faults"] / run["pages"] for run in runs],
        faults_demand=median(runs, "faults"),
        pages_touched=median(runs, "pages"),
    )


def latency(network, faults):
    return ratio(
        pick(faults, "p50_seconds"),
        pick(network, "p50_seconds"),
        fault_p50_seconds=median(faults, "p50_seconds"),
        touch_p50_seconds=median(faults, "touch_p50_seconds"),
        round_trip_p50_seconds=median(network, "p50_seconds"),
    )


def slow_down(runs):
    return of_runs(
        pick(runs, "slow_down_had_percent"),
        by_cpu_time_percent=median(runs, "slow_down_cpu_percent"),
        by_wall_clock_percent=median(runs, "slow_down_wall_percent"),
        untracked_pages_per_second=median(runs, "untracked_pages_per_second"),
    )


def ghost_memory(runs):
    return of_runs(
        [run["parts_bytes_each"] / 1024 for run in runs],
        by_available_memory_kib=median(runs, "available_bytes_each") / 1024,
        add_one_seconds=median(runs, "add_seconds_each"),
        remove_one_seconds=median(runs, "remove_seconds_each"),
    )


def highest(name):
    return lambda runs: of_runs(pick(runs, name))


def of_native(name):
    """Of one figure in the session and its like on native /proc."""
    return lambda runs: ratio(
        pick(runs, f"{name}_seconds"),
        pick(runs, f"native_{name.removeprefix('first_')}_seconds"),
        **{f"view_{name}_seconds": median(runs, f"{name}_seconds")},
        **{f"native_{name}_seconds": median(runs, f"native_{name.removeprefix('first_')}_seconds")},
    )


def top_cost(runs):
    """top and our daemons together, against top."""
    return ratio(
        [run["top_cpu_seconds"] + run["daemons_cpu_seconds"] for run in runs],
        pick(runs, "native_top_cpu_seconds"),
        top_seconds=median(runs, "top_cpu_seconds"),
        daemons_seconds=median(runs, "daemons_cpu_seconds"),
        native_top_seconds=median(runs, "native_top_cpu_seconds"),
    )


def starts(run, ssh):
    return ratio(
        pick(run, "seconds"),
        pick(ssh, "seconds"),
        run_seconds=median(run, "seconds"),
        ssh_seconds=median(ssh, "seconds"),
    )


def longest_pause(eager, post_copy):
    runs = eager + post_copy
    return of_runs(
        [run["pause_seconds"] / run["freeze_seconds"] for run in runs],
        pause_seconds=median(runs, "pause_seconds"),
        freeze_seconds=median(runs, "freeze_seconds"),
    )


def read_again(hinted, cold):
    return ratio(
        pick(hinted, "seconds"),
        pick(cold, "seconds"),
        hinted_seconds=median(hinted, "seconds"),
        cold_seconds=median(cold, "seconds"),
        migration_seconds=median(hinted, "migration_seconds"),
    )


def wire(*modes):
    figures = [
        of_runs(
            [run["wire_bytes"] / run["resident_bytes"] for run in runs],
            wire_bytes=median(runs, "wire_bytes"),
            resident_bytes=median(runs, "resident_bytes"),
        )
        for runs in modes
    ]
    return max(figures, key=lambda figure: figure.value)


def against_criu(name):
    """Ours against the recipe that is best at this very figure."""

    def compute(ours, *recipes):
        medians = [median(runs, name) for runs in recipes]
        best = recipes[medians.index(min(medians))]
        detail = {f"{recipe}_{name}": each for recipe, each in zip(RECIPES, medians)}
        return ratio(pick(ours, name), pick(best, name), **{f"gestalt_{name}": median(ours, name)}, **detail)

    return compute


def measures(sizes):
    gib, large = f"{sizes.gib} MiB", f"{sizes.large} MiB"
    hybrid = tuple(f"hybrid-{rate}" for rate in ("idle", "1%", "10%", "max"))
    table = [
        Measure(
            "freeze.post-copy",
            f"freeze of post-copy, {gib} ÷ floor",
            "<= 1.5",
            ("floor", "post-copy"),
            freeze_to_floor,
        ),
        Measure(
            "freeze.post-copy-large",
            f"freeze of post-copy, {large} ÷ floor",
            "<= 1.5",
            ("floor", "post-copy-large"),
            freeze_to_floor,
        ),
        Measure(
            "freeze.pre-copy",
            f"freeze of pre-copy, {gib}, 1 %/s written ÷ floor",
            "<= 2",
            ("floor", "pre-copy-1%"),
            freeze_to_floor,
        ),
        Measure(
            "freeze.hybrid",
            f"freeze of hybrid, {gib}, worst write rate ÷ floor",
            "<= 2",
            ("floor", *hybrid),
            worst_freeze,
        ),
        Measure(
            "eager.rate",
            "eager: memory ÷ total time, against one iperf3 stream",
            ">= 0.6",
            ("iperf3", "eager"),
            eager_rate,
        ),
        Measure(
            "post-copy.total",
            "total time of post-copy ÷ eager's",
            "<= 1.3",
            ("post-copy", "eager"),
            totals,
        ),
        Measure(
            "lazy.sequential",
            "sequential reader after lazy: demand faults ÷ pages",
            "<= 0.05",
            ("lazy-sequential",),
            faults_for_pages,
        ),
        Measure(
            "post-copy.random",
            "random reader, 25 % set, post-copy: faults avoided",
            ">= 0.7",
            ("random-reader",),
            faults_avoided,
            "share",
        ),
        Measure(
            "fault.latency",
            "demand fault p50 ÷ 4 KiB round trip",
            "<= 3",
            ("pingpong", "fault-latency"),
            latency,
        ),
        Measure(
            "run.start",
            "gestalt run -- true on another node ÷ ssh node true",
            "<= 0.3",
            ("run", "ssh"),
            starts,
        ),
        Measure(
            "file-cache",
            "reading a file again after a migration: hinted ÷ cold",
            "<= 0.3",
            ("read-hinted", "read-cold"),
            read_again,
        ),
        Measure(
            "network.pause",
            "10 moves, --net own, 8 clients: longest pause ÷ freeze",
            "<= 2",
            ("peers-eager", "peers-post-copy"),
            longest_pause,
        ),
        Measure(
            "network.redis",
            "redis-server under load, 10 moves: longest request ÷ freeze",
            "<= 2",
            ("redis",),
            lambda runs: ratio(pick(runs, "pause_seconds"), pick(runs, "freeze_seconds")),
        ),
        Measure(
            "deputy.freeze",
            "freeze of a session's process ÷ of a job's root",
            "<= 1.1",
            ("deputy-freeze",),
            lambda runs: ratio(pick(runs, "member_seconds"), pick(runs, "root_seconds")),
        ),
        Measure(
            "deputy.memory",
            "a deputy's private anonymous memory, KiB",
            "<= 200",
            ("deputy-memory",),
            lambda runs: of_runs(pick(runs, "kib")),
            "KiB",
        ),
        Measure(
            "deputy.home",
            "its parent's stop when a process comes home ÷ a CRIU restore",
            "<= 1.5",
            ("deputy-home",),
            lambda runs: ratio(pick(runs, "stop_seconds"), pick(runs, "restore_seconds")),
        ),
        Measure(
            "deputy.relay",
            "a pipe through a cat that has moved ÷ raw TCP",
            ">= 0.5",
            ("deputy-relay", "deputy-iperf3"),
            lambda relayed, raw: ratio(pick(relayed, "bytes_per_second"), pick(raw, "bytes_per_second")),
        ),
        Measure(
            "tracking.slow-down",
            "slow-down of a writer while tracked",
            "<= 5",
            ("tracking",),
            slow_down,
            "%",
        ),
        Measure(
            "wire.half-zero",
            "half zero pages: bytes on the wire ÷ resident",
            "<= 0.55",
            ("half-zero-eager", "half-zero-hybrid"),
            wire,
        ),
    ]
    for key, text, target, compute, unit in (
        ("ps", "ps, 1,000 local + 9,000 remote ÷ 10,000 native", "<= 1.2", of_native("ps"), "ratio"),
        ("first-ps", "ps in a new view ÷ the same", "<= 4", of_native("first_ps"), "ratio"),
        ("top", "CPU time of top and our daemons ÷ top's natively", "<= 1.5", top_cost, "ratio"),
        ("local-stat", "reading a local /proc/PID/stat ÷ natively", "<= 1.3", of_native("stat"), "ratio"),
        ("age", "age of what is shown, 500 changes/s, at most, s", "<= 2", highest("age_max_seconds"), "s"),
        ("leader", "leader's CPU for it, of a core", "<= 0.1", highest("leader_share_of_a_cpu"), "share"),
    ):
        table.append(Measure(f"view.{key}", text, target, ("view",), compute, unit))
    for count in (1000, 10000):
        text, needs = f"memory of a ghost, {count} of them, KiB", (f"ghosts-{count}",)
        table.append(Measure(f"ghosts.{count}", text, "<= 32", needs, ghost_memory, "KiB"))
    for name, mode in BEST_MODE.items():
        needs = tuple(f"{who}-{name}" for who in ("ours", *RECIPES))
        for what, field in (("freeze", "gap_seconds"), ("total", "total_seconds")):
            text = f"{what} time, {name}: {mode} ÷ best of CRIU's"
            table.append(Measure(f"criu.{name}.{what}", text, "< 1", needs, against_criu(field)))
    return table
