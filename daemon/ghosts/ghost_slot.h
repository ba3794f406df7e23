// What a ghost and its keeper share: one slot a ghost, with the ghost's stack in it. The
// ghost may be stopped or killed between any two of its instructions, so nobody ever waits
// for what it does next: each ghost writes a ring of its own, and its end is seen by waitid().
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace gestalt {

struct GhostRecord {
  int signal;
  int code;  // siginfo_t's
  pid_t sender_pid;
  uid_t sender_uid;
};

inline constexpr std::uint32_t kGhostRecords = 8;  // a power of two
// What a ghost needs is below 300 bytes: no signal is ever delivered on its stack.
inline constexpr std::size_t kGhostStackBytes = 448;
// Carried by the signals of the keeper: one that wakes a ghost which is to leave or to take
// another name, and SIGCONT for one that is not to be stopped any more. Never reported.
inline constexpr int kGhostNudgeSignal = 64;
inline constexpr int kGhostNudgeCode = -0x6700;

enum GhostState : std::uint32_t { kGhostStarting, kGhostReady, kGhostRefused };

struct alignas(64) GhostSlot {
  // Set by the keeper before the ghost starts.
  pid_t pid;
  uid_t uid;
  gid_t gid;
  pid_t keeper_pid;
  int wake_fd;  // an eventfd
  std::uint32_t dirty_bit;
  std::array<char, 16> name;          // as PR_SET_NAME takes it
  std::atomic<std::uint64_t>* dirty;  // its bit is set after each record

  std::atomic<std::uint32_t> state;    // a GhostState, and a futex; by the ghost
  std::atomic<std::uint32_t> leave;    // set by the keeper: report what is pending, and end
  std::atomic<std::uint32_t> renamed;  // set by the keeper: take the name again
  std::atomic<std::uint32_t> written;  // records so far; by the ghost
  std::atomic<std::uint32_t> read;     // by the keeper; a futex
  std::atomic<std::uint32_t> full;     // the ghost waits for `read` to change
  std::atomic<std::uint32_t> nudges;   // taken so far; by the ghost
  int refused_errno;                   // with kGhostRefused

  std::array<GhostRecord, kGhostRecords> records;
  alignas(16) std::array<std::byte, kGhostStackBytes> stack;
};
static_assert(sizeof(GhostSlot) <= 704);

}  // namespace gestalt
