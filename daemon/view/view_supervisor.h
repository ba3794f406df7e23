// Keeps one user's view mounted: starts the program that serves it, notices from outside
// when it hangs or has died, uncovers the native /proc and mounts the view anew. Sessions
// stay: they share a mount namespace, not the program. Never looks into the view itself.
#pragma once

#include <sys/stat.h>

#include <sys/types.h>

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/fd.h"
#include "daemon/view/session_mounts.h"

namespace gestalt {

struct ViewSupervisorOptions {
  uid_t viewer = 0;
  int hidepid = 0;
  std::string program;  // this one
};

class ViewSupervisor {
 public:
  explicit ViewSupervisor(ViewSupervisorOptions options) : options_(std::move(options)) {}

  // False: another one keeps this user's view already.
  [[nodiscard]] Result<bool> start();
  // Until nobody has needed the view for a minute.
  void run() { loop_.run(); }

 private:
  enum class State { kDown, kMounting, kUp, kUnmounting };

  void mount();
  void start_worker(std::pair<Fd, Fd> devices);
  void complete(const Result<void>& bound);
  void failed();
  void let_in();
  void worker_ended(int status);
  void on_cold_listing();
  void uncover();
  void on_signals();
  void heartbeat();
  void hung();
  [[nodiscard]] bool program_replaced() const;
  void accept_session();
  void serve_session(int socket);
  void stop_when_unused();

  ViewSupervisorOptions options_;
  EventLoop loop_;
  Fd lock_;
  Fd signals_;
  Fd listener_;
  std::string socket_path_;
  std::unique_ptr<SessionMounts> mounts_;
  State state_ = State::kDown;
  pid_t worker_ = 0;
  Fd cold_listings_;       // the worker tells of them
  struct stat program_{};  // of which the worker was made
  bool replacing_ = false;
  int failures_ = 0;  // in a row
  Clock::time_point started_;
  Clock::time_point asked_;  // the heartbeat that is not answered yet
  bool probing_ = false;
  bool ready_ = false;  // mounted once, or given up for now
  std::vector<Fd> waiting_;
  std::list<Fd> sessions_;  // connections: who holds one needs the view
  Clock::time_point last_needed_;
};

// Where the supervisor of a user's view listens. Who connects (root only) gets the mount
// namespace to enter, and holds the view as long as the connection.
[[nodiscard]] std::string view_session_socket(uid_t viewer);

}  // namespace gestalt
