// A job's pseudo-terminal, seen from its stand-in, which is the session's leader and
// holds the master. Not thread-safe.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <string>

#include "common/fd.h"
#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt {

class Terminal {
 public:
  // A new pseudo-terminal, owned by `owner`, as the calling session's controlling one.
  [[nodiscard]] static Result<Terminal> create(uid_t owner);

  // One that is the session's already, by its master.
  [[nodiscard]] static Result<Terminal> adopt(Fd master, uid_t owner);
  [[nodiscard]] Fd take_master() { return std::move(master_); }

  [[nodiscard]] int master() const { return master_.get(); }
  // The job's end; held only until the job has it (else its closing would go unseen).
  [[nodiscard]] int slave() const { return slave_.get(); }
  void release_slave() { slave_.reset(); }
  void hang_up() { master_.reset(); }

  [[nodiscard]] std::string name() const;  // of the job's end: "/dev/pts/3"
  void resize(const wire::WindowSize& window);
  [[nodiscard]] wire::WindowSize window() const;
  // Raw `struct termios`, as the client's or another node's; ignored if it is none.
  void set_settings(const std::string& termios_bytes);
  [[nodiscard]] std::string settings() const;

  [[nodiscard]] pid_t foreground_group() const;
  void set_foreground_group(pid_t group);

  // Input that was typed and not yet read by the job: takes it out, and puts it (back)
  // in. Lines that waited become one. Only while the job is frozen.
  [[nodiscard]] Result<std::string> take_unread();
  [[nodiscard]] Result<void> put_unread(const std::string& input);

 private:
  Terminal(Fd master, Fd slave) : master_(std::move(master)), slave_(std::move(slave)) {}
  [[nodiscard]] Result<termios> make_raw();
  [[nodiscard]] Result<Fd> open_slave() const;
  [[nodiscard]] Result<void> give_to(uid_t owner);

  Fd master_;
  Fd slave_;
};

}  // namespace gestalt
