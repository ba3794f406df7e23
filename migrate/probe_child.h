// A child of ours on which something is tried out: it sleeps, and has memory where we know it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace gestalt {

// Ends with this object. Forks: not for programs with threads.
class ProbeChild {
 public:
  // `prepare` runs in the child, on its private memory. Afterwards it has no descriptors but
  // those up to 2, and sleeps; that is waited for.
  ProbeChild(std::size_t bytes, const std::function<void(char*)>& prepare);
  ProbeChild(const ProbeChild&) = delete;
  ProbeChild& operator=(const ProbeChild&) = delete;
  ~ProbeChild();

  [[nodiscard]] pid_t pid() const { return pid_; }  // -1: it could not be started
  [[nodiscard]] std::uint64_t start() const { return start_; }
  [[nodiscard]] std::uint64_t end() const { return start_ + bytes_; }

 private:
  std::size_t bytes_;
  pid_t pid_ = -1;
  std::uint64_t start_ = 0;
};

}  // namespace gestalt
