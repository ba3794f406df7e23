// Standard input of a job: from the caller's descriptor to the daemon.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "cli/local_stream.h"
#include "common/direct_stream.h"
#include "common/event_loop.h"
#include "common/proto/control.pb.h"
#include "common/stdio_window.h"

namespace gestalt::cli {

class InputPump {
 public:
  using Send = std::function<void(const StdioChunk&)>;
  using Ask = std::function<void()>;

  // `end_character`: a terminal that edits lines itself gives an end of file that is
  // none: it goes on as this character of the job's terminal.
  // `ask`: for a connection of its own, as much passes through it.
  InputPump(EventLoop& loop, LocalStream stream, std::optional<char> end_character, Send send,
            Ask ask);
  ~InputPump();
  InputPump(const InputPump&) = delete;
  InputPump& operator=(const InputPump&) = delete;

  // Whether to read at all: not before the job runs, not from a background terminal.
  void set_reading(bool reading);
  // Likewise, for a while. What has been taken by then is before the offset.
  std::uint64_t hold();
  void let_go();
  // Everything that is not acknowledged, once more.
  void resync();
  // What is read and not acknowledged, for another deputy, and from another.
  void describe(wire::DeputyState& state) const;
  void restore(const wire::DeputyState& state);
  [[nodiscard]] Result<void> acknowledge(std::uint64_t offset, bool closed);
  // The connection that was asked for.
  void go_direct(Fd socket);
  // By messages again.
  void leave_direct();

 private:
  void ask_if_much();
  void start_direct();
  void update_watch();
  void on_readable(std::uint32_t events);
  void send_new();

  EventLoop& loop_;
  LocalStream stream_;
  std::optional<char> end_character_;
  Send send_;
  Ask ask_;
  StdioSender sender_;
  std::uint64_t counted_from_ = 0;  // an offset
  Fd next_;                         // a connection of its own, once all is acknowledged
  std::unique_ptr<DirectSender> direct_;
  bool reading_ = false;
  bool held_ = false;
  bool ended_ = false;   // nothing more to read
  bool closed_ = false;  // nobody wants it any more
};

}  // namespace gestalt::cli
