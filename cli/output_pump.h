// Standard output or error of a job: from the daemon to the caller's descriptor, no
// faster than whoever reads there.
#pragma once

#include <functional>
#include <memory>

#include "cli/local_stream.h"
#include "common/direct_stream.h"
#include "common/event_loop.h"
#include "common/stdio_window.h"

namespace gestalt::cli {

class OutputPump {
 public:
  using Acknowledge = std::function<void(std::uint64_t offset, bool closed)>;
  using Drained = std::function<void()>;
  using Ask = std::function<void()>;

  // `drained` runs whenever all that came has been written; `ask` asks for a connection of its
  // own, as much passes through it.
  OutputPump(EventLoop& loop, LocalStream stream, Acknowledge acknowledge, Drained drained,
             Ask ask);
  ~OutputPump();
  OutputPump(const OutputPump&) = delete;
  OutputPump& operator=(const OutputPump&) = delete;

  [[nodiscard]] Result<void> accept(std::uint64_t offset, std::string_view data, bool eof);
  // The newest acknowledgement, once more.
  void resync();
  [[nodiscard]] std::uint64_t consumed_offset() const { return receiver_.consumed_offset(); }
  // While `drops` says so, a carriage return before a line's end is not written: the job's
  // terminal has added it, and the one here adds its own.
  void drop_returns(std::function<bool()> drops) { drops_returns_ = std::move(drops); }
  // Nothing is written meanwhile.
  void pause(bool paused);
  // As one that has written so much before.
  void restore(std::uint64_t consumed_offset);
  [[nodiscard]] bool is_drained() const { return receiver_.pending().empty(); }
  [[nodiscard]] bool at_eof() const { return receiver_.at_eof(); }
  // The connection that was asked for.
  void go_direct(Fd socket);
  // By messages again.
  void leave_direct();

 private:
  void ask_if_much();
  void close_stream();
  void write_some();
  [[nodiscard]] std::string_view next_piece();
  void give_up(const Error& error);
  void acknowledge_consumed();

  EventLoop& loop_;
  LocalStream stream_;
  Acknowledge acknowledge_;
  Drained drained_;
  Ask ask_;
  std::function<bool()> drops_returns_;
  StdioReceiver receiver_;
  std::uint64_t counted_from_ = 0;  // an offset
  std::unique_ptr<DirectReceiver> direct_;
  std::uint64_t acknowledged_ = 0;
  bool paused_ = false;
  bool closed_ = false;  // the reader is gone; what comes is dropped
};

}  // namespace gestalt::cli
