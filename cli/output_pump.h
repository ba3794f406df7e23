// Standard output or error of a job: from the daemon to the caller's descriptor, no
// faster than whoever reads there.
#pragma once

#include <functional>

#include "cli/local_stream.h"
#include "common/event_loop.h"
#include "common/stdio_window.h"

namespace gestalt::cli {

class OutputPump {
 public:
  using Acknowledge = std::function<void(std::uint64_t offset, bool closed)>;
  using Drained = std::function<void()>;

  // `drained` runs whenever all that came has been written.
  OutputPump(EventLoop& loop, LocalStream stream, Acknowledge acknowledge, Drained drained);
  ~OutputPump();
  OutputPump(const OutputPump&) = delete;
  OutputPump& operator=(const OutputPump&) = delete;

  [[nodiscard]] Result<void> accept(std::uint64_t offset, std::string_view data, bool eof);
  // The newest acknowledgement, once more.
  void resync();
  [[nodiscard]] std::uint64_t consumed_offset() const { return receiver_.consumed_offset(); }
  // Nothing is written meanwhile.
  void pause(bool paused);
  // As one that has written so much before.
  void restore(std::uint64_t consumed_offset);
  [[nodiscard]] bool is_drained() const { return receiver_.pending().empty(); }
  [[nodiscard]] bool at_eof() const { return receiver_.at_eof(); }

 private:
  void write_some();
  void give_up(const Error& error);
  void acknowledge_consumed();

  EventLoop& loop_;
  LocalStream stream_;
  Acknowledge acknowledge_;
  Drained drained_;
  StdioReceiver receiver_;
  std::uint64_t acknowledged_ = 0;
  bool paused_ = false;
  bool closed_ = false;  // the reader is gone; what comes is dropped
};

}  // namespace gestalt::cli
