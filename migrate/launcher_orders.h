// What is said to gestalt-launcher (daemon/launcher/): a header, its numbers, its text, then its
// descriptors (send_fds()). The answer is one std::int64_t: a result, or a negative errno value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

enum class LaunchOrder : std::uint32_t {
  kOwnGroup = 1,    // {1 for a session, 0 for a process group of its own}
  kStart = 2,       // {personality or 0}: a program as root, a child of the launcher's own parent
  kForeground = 3,  // {process group}: gets the session's terminal
  // {pid, group or 0 or kOwnSession, the three user ids, the three group ids}: likewise a child of
  // the launcher's parent, with these ids
  kDeputy = 4,
  kRemember = 5,  // the same, to be done if the stand-in crashes
  kForget = 6,    // {}: no more
};

inline constexpr std::int32_t kOwnSession = -1;

inline constexpr std::size_t kMaxLaunchNumbers = 32;
inline constexpr std::size_t kMaxLaunchText = 1U << 20;
inline constexpr std::size_t kMaxLaunchDescriptors = 16;

struct LaunchHeader {
  LaunchOrder order{};
  std::uint32_t numbers = 0;
  std::uint32_t text_bytes = 0;
  std::uint32_t descriptors = 0;
};

struct LaunchRequest {
  LaunchOrder order{};
  std::vector<std::int32_t> numbers;
  std::vector<std::string> argv;
  std::vector<std::string> environment;
  // {ours, number that the program shall see}. Those of 0 to 2 that are not named: for kStart
  // /dev/null, for kDeputy the launcher's own.
  std::vector<std::pair<int, int>> descriptors;
};

// The order's text: how many arguments there are, these, and the environment; each string ends
// with a NUL.
[[nodiscard]] std::string launch_text(const LaunchRequest& request);
// kProtocol.
[[nodiscard]] Result<void> parse_launch_text(const std::string& text, LaunchRequest& request);

// Sends it and waits for the answer; an error of the launcher's is kSystem.
[[nodiscard]] Result<std::int64_t> order_launch(int socket, const LaunchRequest& request,
                                                Deadline deadline);

}  // namespace gestalt
