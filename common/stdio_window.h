// Flow control of a job's stdio, end to end between the CLI and the job's stand-in.
// A sender holds what is not acknowledged; a receiver takes bytes by their offset, so
// that what arrives twice (after a migration or a reconnect) is dropped. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace gestalt {

// Sent and not yet acknowledged, for each stream.
inline constexpr std::size_t kStdioWindowBytes = 256U << 10;
// In one StdioData message.
inline constexpr std::size_t kStdioChunkBytes = 32U << 10;

// After so much, a pipe is worth a connection of its own (common/direct_stream.h).
inline constexpr std::uint64_t kDirectAfterBytes = 1U << 20;

struct StdioChunk {
  std::uint64_t offset = 0;
  std::string_view data;
  bool eof = false;
};

class StdioSender {
 public:
  // How many bytes may be taken in now without exceeding the window.
  [[nodiscard]] std::size_t room() const;
  // Bytes read from the local side. Beyond the window only what has to be rescued
  // when a pipe is drained for a migration.
  void push(std::string_view data);
  void push_eof();
  // The next piece to send, or nothing. The view is valid until the next call of a
  // non-const function.
  [[nodiscard]] std::optional<StdioChunk> next();
  // Forgets what was consumed; an offset that was never sent is kProtocol.
  [[nodiscard]] Result<void> acknowledge(std::uint64_t offset);
  // Send again all that is not acknowledged (new connection, new node).
  void rewind();
  [[nodiscard]] bool finished() const { return eof_ && eof_sent_ && buffer_.empty(); }

  // For the hand-over to another node.
  [[nodiscard]] std::uint64_t base_offset() const { return base_; }
  [[nodiscard]] const std::string& pending() const { return buffer_; }
  [[nodiscard]] bool eof() const { return eof_; }
  void restore(std::uint64_t base_offset, std::string pending, bool eof);

 private:
  std::string buffer_;         // from base_ on
  std::uint64_t base_ = 0;     // everything below is acknowledged
  std::size_t sent_ = 0;       // into buffer_
  std::size_t ever_sent_ = 0;  // the same, but not taken back by rewind()
  bool eof_ = false;
  bool eof_sent_ = false;
};

class StdioReceiver {
 public:
  // Takes a piece; what is new of it is appended to pending(). A gap is kUnavailable: what
  // got lost when a connection broke comes again after a resync, but newer data may come
  // before it. More unconsumed bytes than four windows (a migration rescues a pipe's content
  // beyond one) are kProtocol.
  [[nodiscard]] Result<void> accept(std::uint64_t offset, std::string_view data, bool eof);
  [[nodiscard]] const std::string& pending() const { return pending_; }
  // The first `count` bytes of pending() have been written out.
  void consume(std::size_t count);
  // What to acknowledge: everything below was consumed.
  [[nodiscard]] std::uint64_t consumed_offset() const { return consumed_; }
  [[nodiscard]] bool at_eof() const { return eof_ && pending_.empty(); }
  [[nodiscard]] bool eof() const { return eof_; }
  void restore(std::uint64_t consumed_offset, std::string pending, bool eof);

 private:
  std::string pending_;
  std::uint64_t consumed_ = 0;
  bool eof_ = false;
};

}  // namespace gestalt
