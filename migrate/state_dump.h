// A dump of a process's state without its private anonymous memory.
//
// CRIU asks the kernel which pages of a mapping are there to be dumped (PAGEMAP_SCAN).
// libgestalt-state-dump.so, preloaded into CRIU, answers "none" for the mappings that a
// lazy restore will give us by userfaultfd; everything else (file-backed pages that were
// written, locked and huge pages, vdso) CRIU dumps as ever. The engine carries the rest.
// Whatever CRIU did dump is in its pagemap images, and is left to it: a preload that
// does not work costs time, never a page.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

enum class StateDump { kStateOnly, kLazy };
[[nodiscard]] std::string_view name_of(StateDump kind);  // "state-only" "lazy"

inline constexpr char kStateDumpLibrary[] = "/usr/lib/gestalt/libgestalt-state-dump.so";

// What the running CRIU and kernel can do: verified once per boot by dumping a child of
// ours and looking at its images; the answer is kept in /run/gestalt/state-dump.
[[nodiscard]] StateDump probe_state_dump();

// By pid, the present (or swapped) pages of frozen processes that CRIU did not write into
// its images in `directory` and that its lazy restore will leave to us.
[[nodiscard]] Result<std::map<std::uint32_t, PageSet>> read_missing_pages(
    const std::string& directory);

}  // namespace gestalt
