// Whether an RDMA device lets a process's own pages be registered and read in place
// (migrate/zero_copy.h): tried when the node starts or the device appears, until it works.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/result.h"

namespace gestalt {

inline constexpr char kZeroCopyFile[] = "/run/gestalt/zero-copy";

// By device name; empty: it works. Otherwise why not: a driver may want data of its own with each
// registration (irdma, siw), a security module may forbid what it takes.
using ZeroCopySupport = std::map<std::string, std::string>;

// Registers pages of a child of ours, with each device that does not work by kZeroCopyFile, and
// reads them back through a loopback queue pair. The answer is kept in that file, without devices
// that are gone. Forks: not for programs with threads.
[[nodiscard]] ZeroCopySupport probe_zero_copy();
// What is known of these devices; those that are not known to work are tried.
[[nodiscard]] ZeroCopySupport renewed(
    const ZeroCopySupport& known, const std::vector<std::string>& devices,
    const std::function<Result<void>(const std::string&)>& try_device);
[[nodiscard]] bool all_work(const ZeroCopySupport& known, const std::vector<std::string>& devices);
// Of one device, not kept; why it does not work.
[[nodiscard]] Result<void> try_zero_copy(const std::string& device);
// The kept answer; empty as long as there is none.
[[nodiscard]] ZeroCopySupport known_zero_copy();
// The names of the devices that programs can use now, sorted. Cheap.
[[nodiscard]] std::vector<std::string> rdma_devices(const std::string& sysfs = "/sys");

}  // namespace gestalt
