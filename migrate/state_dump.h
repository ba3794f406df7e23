// A dump of a process's state without its private anonymous memory, and without a walk
// over it.
//
// CRIU asks the kernel which pages of a mapping are there to be dumped (PAGEMAP_SCAN).
// libgestalt-state-dump.so, preloaded into CRIU, answers "none" for the mappings that a
// lazy restore will give us by userfaultfd; everything else (file-backed pages that were
// written, locked and huge pages, vdso) CRIU dumps as ever. The engine carries the rest.
// What a lazy restore takes from CRIU's images is left to it, all else is ours, dumped or
// not: a preload that does not work costs time, never a page.
//
// CRIU also reads /proc/PID/smaps, for which the kernel counts every page (5 to 7 ms for a
// GiB), with the process frozen. So the engine may store smaps before the freeze; the
// preload gives CRIU the stored file if the areas are still the same, name and all. What
// it cannot see is an madvise over exactly one whole area, so the engine compares once
// more, when it has the time, and rolls back if that is what happened.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

enum class StateDump { kStateOnly, kLazy };
[[nodiscard]] std::string_view name_of(StateDump kind);  // "state-only" "lazy"

inline constexpr char kStateDumpLibrary[] = "/usr/lib/gestalt/libgestalt-state-dump.so";
inline constexpr char kStateDumpFile[] = "/run/gestalt/state-dump";

// What the running CRIU and kernel can do: verified once per boot by dumping a child of
// ours and looking at its images; the answer is kept in kStateDumpFile. Forks: not for
// programs with threads.
[[nodiscard]] StateDump probe_state_dump();
// The kept answer; kLazy as long as there is none.
[[nodiscard]] StateDump known_state_dump();

// By pid, the present (or swapped) pages of frozen processes that a lazy restore from the
// images in `directory` will leave to us. Zeros that were only read may be missing. Serves
// both kinds of dump. A page that is not in it, and was sent before, must be dropped.
[[nodiscard]] Result<std::map<std::uint32_t, PageSet>> read_missing_pages(
    const std::string& directory);

// Stores the smaps of the larger of these processes, which may run, in `directory`: that of
// CriuStart::smaps_directory, private to root.
[[nodiscard]] Result<void> snapshot_smaps(const std::vector<pid_t>& pids,
                                          const std::string& directory);
// Of frozen processes, after the dump: whether what CRIU got from `directory` is still what
// the kernel says. False: the dump may have lost an madvise, and is not to be used.
[[nodiscard]] Result<bool> smaps_unchanged(const std::vector<pid_t>& pids,
                                           const std::string& directory);

}  // namespace gestalt
