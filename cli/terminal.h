// The caller's terminal while a job has it.
#pragma once

#include <termios.h>

#include <string>

namespace gestalt::cli {

// Puts a terminal into raw mode and back: on destruction, and also when this process
// crashes. At most one exists at a time. With descriptor -1 it does nothing.
class Terminal {
 public:
  explicit Terminal(int fd);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Whether this process may read the terminal. Also true where no job control binds
  // it: a terminal that is not the process's controlling one.
  [[nodiscard]] bool in_foreground() const;
  // Nothing happens in the background: there the terminal is somebody else's.
  void make_raw();
  void restore();
  // Raw `struct termios`, to be restored instead of what was there. Ignored if it is none.
  void set_saved(const std::string& termios_bytes);
  [[nodiscard]] bool is_raw() const { return raw_; }
  // Whether that terminal adds a carriage return to each end of line.
  [[nodiscard]] static bool adds_returns(int fd);

 private:
  void install_crash_handlers();

  int fd_;
  bool raw_ = false;
  termios saved_{};
};

}  // namespace gestalt::cli
