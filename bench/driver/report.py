"""Results as a table for people and as JSON for programs."""

import datetime
import os
import platform
import re
import subprocess


def _first_line(*argv):
    try:
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (ended.stdout.splitlines() or ["unknown"])[0].strip()


def machine():
    with open("/proc/cpuinfo") as file:
        model = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    with open("/proc/meminfo") as file:
        memory = re.search(r"^MemTotal:\s*(\d+) kB", file.read(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": int(memory[1]) * 1024,
        "load_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "criu": _first_line("criu", "--version").removeprefix("Version: "),
        "gestalt": _first_line("gestalt", "--version"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def row(measure, figure, detail, reason=None, failed=False):
    verdict = f"{'failed' if failed else 'not measured'}: {reason}"
    if figure:
        verdict = "met" if measure.met(figure.value) else "missed"
    return {
        "key": measure.key,
        "measure": measure.text,
        "figure": figure.value if figure else None,
        "spread": {"min": figure.low, "max": figure.high} if figure else None,
        "unit": measure.unit,
        "target": measure.target,
        "verdict": verdict,
        "detail": detail,
    }


def _number(name, value):
    if isinstance(value, list):
        return " ".join(f"{each:g}" for each in value)
    if name.endswith("bytes_per_second"):
        return f"{value / 2**20:.0f} MiB/s"
    if name.endswith("_bytes"):
        return f"{value / 2**20:.1f} MiB"
    if name.endswith("_seconds"):
        for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
            if value * factor >= 1 or unit == "µs":
                return f"{value * factor:.3g} {unit}"
    if name.endswith("_percent"):
        return f"{value:.2f} %"
    return f"{value:.0f}"


def _label(name):
    for suffix in ("_bytes_per_second", "_per_second", "_bytes", "_seconds", "_percent"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def table(results):
    machine = results["machine"]
    lines = [
        f"Gestalt {machine['gestalt'].split()[-1]}, CRIU {machine['criu']}, Linux {machine['kernel']}, {machine['date']}",
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB,"
        f" load {machine['load_before']:.1f} before; {results['runs']} runs, medians (lowest–highest)"
        + ("; QUICK: small sizes, few runs, not the figures that count" if results["quick"] else ""),
        "",
        f"{'MEASURE':<56} {'FIGURE':>24}  {'TARGET':<8} VERDICT",
    ]
    for each in results["measures"]:
        figure = "–"
        if each["figure"] is not None:
            figure = f"{each['figure']:.3g} ({each['spread']['min']:.3g}–{each['spread']['max']:.3g})"
            figure += " %" if each["unit"] == "%" else ""
        lines.append(f"{each['measure']:<56} {figure:>24}  {each['target']:<8} {each['verdict']}")
        if each["detail"]:
            parts = [f"{_label(name)} {_number(name, value)}" for name, value in each["detail"].items()]
            lines.append("    " + ", ".join(parts))
    lines += ["", *(f"note: {note}" for note in results["notes"])]
    return "\n".join(lines)
