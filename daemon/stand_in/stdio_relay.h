// Moves a job's stdio between its pipes or terminal and the client, by way of the
// daemons. Each stream counts its bytes (common/stdio_window.h), so that migrations
// and lost connections neither lose nor double any. Runs on the event loop's thread.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/direct_link.h"
#include "common/direct_stream.h"
#include "common/event_loop.h"
#include "common/proto/control.pb.h"
#include "common/proto/handover.pb.h"
#include "common/stdio_window.h"
#include "daemon/stand_in/terminal.h"
#include "migrate/destination.h"

namespace gestalt {

class StdioRelay {
 public:
  using Send = std::function<void(const wire::Message&)>;
  StdioRelay(EventLoop& loop, std::uint64_t job_id, Send send);
  ~StdioRelay();
  StdioRelay(const StdioRelay&) = delete;
  StdioRelay& operator=(const StdioRelay&) = delete;

  // Makes the pipes and the terminal for a new job.
  [[nodiscard]] Result<void> create(const wire::Stdio& stdio, uid_t owner);
  // {ours, 0 to 2} for the job's process; valid until start().
  [[nodiscard]] std::vector<std::pair<int, int>> job_descriptors() const;
  // The job has its ends: begin to relay.
  void start();

  // From the client.
  void on_data(const wire::StdioData& data);
  void on_ack(const wire::StdioAck& ack);
  void on_direct_request(const wire::StdioDirectRequest& request);
  // The client takes no more input for a while; on_held() says how much it has taken.
  void hold_input();
  void on_held(std::uint64_t offset) { held_ = offset; }
  // The job has read all of that, or has no pipe to read from.
  [[nodiscard]] bool held_input_is_read() const;
  // Whether the job has its terminal; else a process that reads it is stopped.
  void set_foreground(bool foreground);
  void resize(const wire::WindowSize& window);
  // Sends again what is not acknowledged.
  void resync();
  // The client is gone: hangs the terminal up, closes the pipes, expects no more acks.
  void abandon();

  // The job's root has ended: relay what is left, then call `finished` once the client
  // has it all. What surviving members of the job write later is thrown away.
  void finish(std::function<void()> finished);

  // The job is frozen for a move. Empties pipes and terminal into `hand_over`. `pids`
  // are the job's processes.
  [[nodiscard]] Result<void> freeze(const std::vector<pid_t>& pids, wire::HandOver& hand_over);
  // It goes on here after all.
  void thaw();
  // The session's terminal, by its master, if it has one already: for restore().
  void set_terminal(Fd master) { held_terminal_ = std::move(master); }
  // The other end of freeze, on another node: makes pipes and terminal anew.
  [[nodiscard]] Result<RestorePlan> restore(const wire::HandOver& hand_over);
  // CRIU is done, the job not running yet: terminal input and foreground.
  [[nodiscard]] Result<void> before_resume(pid_t root);

  [[nodiscard]] Terminal* terminal() { return terminal_ ? &*terminal_ : nullptr; }

 private:
  struct Output {
    std::uint32_t stream = 0;
    Fd pipe;  // our end; invalid: none, or terminal
    Fd job_end;
    bool terminal = false;  // carries the terminal's output
    bool ended = false;     // the job closed it, or nobody wants it
    bool closed = false;    // the client closed it
    StdioSender sender;
    Fd next;  // a connection of its own, once all is acknowledged
    std::unique_ptr<DirectSender> direct;
  };
  struct Input {
    Fd pipe;
    Fd job_end;
    bool closed = false;  // the job closed it
    StdioReceiver receiver;
    std::unique_ptr<DirectReceiver> direct;
  };

  [[nodiscard]] int fd_of(const Output& output) const;
  [[nodiscard]] int input_fd() const;
  void watch_input();
  void watch_pipe(Output& output);
  void watch_output(Output& output);
  void watch_terminal();
  [[nodiscard]] static bool wants_output(const Output& output);
  void read_output(Output& output);
  void send_output(Output& output);
  void end_output(Output& output);
  void watch_all();
  void unwatch_all();
  void on_terminal_events(std::uint32_t events);
  void discard_terminal_output();
  void write_input();
  void close_input();
  void acknowledge_input();
  void check_finished();
  // stdio_direct.cc
  [[nodiscard]] bool may_be_direct(std::uint32_t stream) const;
  void make_direct(std::uint32_t stream, Fd socket);
  void start_direct(Output& output);
  void leave_direct(Output& output);
  void leave_direct(Input& input);
  void leave_direct();
  [[nodiscard]] Result<void> make_pipes(const wire::Stdio& stdio);
  void drain_output(Output& output, wire::HandOverOutput& out);
  [[nodiscard]] Result<void> freeze_input(const std::vector<pid_t>& pids,
                                          wire::HandOverInput& input);
  [[nodiscard]] Result<void> restore_output(Output& output, const wire::HandOverOutput& from,
                                            RestorePlan& plan);
  [[nodiscard]] Result<void> restore_input(const wire::HandOverInput& from, RestorePlan& plan);

  EventLoop& loop_;
  std::uint64_t job_id_;
  Send send_;
  wire::Stdio stdio_;
  Fd held_terminal_;
  std::optional<Terminal> terminal_;
  std::array<Output, 2> outputs_;
  Input input_;
  std::array<std::unique_ptr<DirectLink>, 3> links_;  // being made, for each stream
  std::function<void()> finished_;
  bool running_ = false;  // relaying
  bool finishing_ = false;
  bool abandoned_ = false;
  std::uint64_t input_inode_ = 0;  // of the input pipe, also after we closed our end
  std::string terminal_unread_;    // taken out of the terminal while frozen
  pid_t foreground_group_ = 0;
  pid_t waiting_group_ = 0;  // has the terminal once the job is in the foreground again
  std::optional<std::uint64_t> held_;
};

}  // namespace gestalt
