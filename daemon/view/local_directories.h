// The leader's own processes once more, as directories: /proc/.PID beside the link /proc/PID.
//
// For programs that refuse to follow links there, and take ".PID" for a process as well: htop,
// since kernels that named threads so. Others know numbers only. What is in them are links into
// the native procfs. Not thread-safe.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

class LocalDirectories {
 public:
  struct Entry {
    std::string name;
    std::uint64_t inode = 0;
    mode_t mode = 0;
  };
  // `native`: a native procfs, which must stay open; its path for those in the session.
  LocalDirectories(int native, std::string native_path);

  // Inode numbers of its own.
  static constexpr std::uint64_t kMark = 1ULL << 43;
  [[nodiscard]] static bool is_one(std::uint64_t inode) { return (inode & kMark) != 0; }

  // Nothing when it is not there. In the root: ".123".
  [[nodiscard]] std::optional<std::uint64_t> find_in_root(std::string_view name) const;
  [[nodiscard]] std::optional<std::uint64_t> find(std::uint64_t parent,
                                                  std::string_view name) const;
  // kGone when the process is.
  [[nodiscard]] Result<struct stat> attributes(std::uint64_t inode) const;
  [[nodiscard]] std::vector<Entry> list(std::uint64_t directory) const;
  // As /proc has it for this caller: kPermission if it does not tell him.
  [[nodiscard]] Result<std::string> target(std::uint64_t link, uid_t caller) const;

 private:
  struct Place {
    std::uint32_t id = 0;  // of the process or the thread
    bool is_thread = false;
    std::uint32_t index = 0;  // of the name in it, from 1; 0: the directory itself
  };
  [[nodiscard]] static Place place_of(std::uint64_t inode);
  [[nodiscard]] static std::uint64_t inode_of(const Place& place);
  // Relative to the native procfs.
  [[nodiscard]] static std::string path_of(const Place& place);
  [[nodiscard]] bool is_directory(const Place& place) const;

  int native_;
  std::string native_path_;
  std::vector<std::string> names_;
};

}  // namespace gestalt
