// Standard input of a job: from the caller's descriptor to the daemon.
#pragma once

#include <functional>
#include <optional>

#include "cli/local_stream.h"
#include "common/event_loop.h"
#include "common/proto/control.pb.h"
#include "common/stdio_window.h"

namespace gestalt::cli {

class InputPump {
 public:
  using Send = std::function<void(const StdioChunk&)>;

  // `end_character`: a terminal that edits lines itself gives an end of file that is
  // none: it goes on as this character of the job's terminal.
  InputPump(EventLoop& loop, LocalStream stream, std::optional<char> end_character, Send send);
  ~InputPump();
  InputPump(const InputPump&) = delete;
  InputPump& operator=(const InputPump&) = delete;

  // Whether to read at all: not before the job runs, not from a background terminal.
  void set_reading(bool reading);
  // Everything that is not acknowledged, once more.
  void resync();
  // What is read and not acknowledged, for another deputy, and from another.
  void describe(wire::DeputyState& state) const;
  void restore(const wire::DeputyState& state);
  [[nodiscard]] Result<void> acknowledge(std::uint64_t offset, bool closed);

 private:
  void update_watch();
  void on_readable(std::uint32_t events);
  void send_new();

  EventLoop& loop_;
  LocalStream stream_;
  std::optional<char> end_character_;
  Send send_;
  StdioSender sender_;
  bool reading_ = false;
  bool ended_ = false;   // nothing more to read
  bool closed_ = false;  // nobody wants it any more
};

}  // namespace gestalt::cli
