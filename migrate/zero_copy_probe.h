// Whether an RDMA device lets a process's own pages be registered and read in place
// (migrate/zero_copy.h): tried once per boot, as migrate/state_dump.h does for CRIU.
#pragma once

#include <map>
#include <string>

#include "common/result.h"

namespace gestalt {

inline constexpr char kZeroCopyFile[] = "/run/gestalt/zero-copy";

// By device name; empty: it works. Otherwise why not: a driver may want data of its own with each
// registration (irdma, siw), a security module may forbid what it takes.
using ZeroCopySupport = std::map<std::string, std::string>;

// Registers pages of a child of ours, with each device, and reads them back through a loopback
// queue pair. The answer is kept in kZeroCopyFile. Forks: not for programs with threads.
[[nodiscard]] ZeroCopySupport probe_zero_copy();
// Of one device, not kept; why it does not work.
[[nodiscard]] Result<void> try_zero_copy(const std::string& device);
// The kept answer; empty as long as there is none.
[[nodiscard]] ZeroCopySupport known_zero_copy();

}  // namespace gestalt
