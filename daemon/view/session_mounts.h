// The mount namespace that all sessions of one user share, and a helper process in it that
// mounts, unmounts and tries out the view there. Whoever supervises must do none of that by
// itself: any step into a mounted view can wait for the program that serves it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "common/event_loop.h"
#include "common/fd.h"

namespace gestalt {

class SessionMounts {
 public:
  using OnDone = std::function<void(Result<void>)>;

  // Makes the namespace, with a native procfs at kNativeProcPath.
  [[nodiscard]] static Result<std::unique_ptr<SessionMounts>> make(EventLoop& loop, int hidepid);
  ~SessionMounts();
  SessionMounts(const SessionMounts&) = delete;
  SessionMounts& operator=(const SessionMounts&) = delete;

  // For setns(2).
  [[nodiscard]] int namespace_fd() const { return namespace_.get(); }

  // One at a time; the answer comes by the loop. The devices are the caller's to close.
  // Covers /proc. Nothing can be read from a device before, and nothing there before a program
  // serves it: start that next.
  void mount(int process_device, int machine_device, OnDone on_done);
  // The rest, for which the program must be at work: the CPU and node trees of /sys.
  void bind(OnDone on_done);
  // Uncovers them, whatever state they are in.
  void unmount(OnDone on_done);
  // Reads files of the upper half of all processes in /proc, from the last on, while somebody else
  // reads them from the first on: a view that is new answers both by turns, and neither waits for
  // the other's way to it. `entries`: a bit for each of process_entries(). Done when it has begun.
  void read_ahead(std::uint64_t entries, OnDone on_done);
  // Asks the view for something that nobody has cached.
  void probe(OnDone on_done);
  [[nodiscard]] bool busy() const { return on_done_ != nullptr; }

 private:
  SessionMounts(EventLoop& loop, pid_t helper, Fd socket, Fd name_space)
      : loop_(loop),
        helper_(helper),
        socket_(std::move(socket)),
        namespace_(std::move(name_space)) {}
  void order(char what, std::span<const int> devices, OnDone on_done);
  void on_answer();

  EventLoop& loop_;
  pid_t helper_;
  Fd socket_;
  Fd namespace_;
  OnDone on_done_;
};

}  // namespace gestalt
