// The standard streams of a process that comes home: what was under way between it and its deputy
// is brought to its end, so that the process can use its own descriptors again. Output that nobody
// has written yet is written; input that was taken in and that the process has not read is put
// back.
#pragma once

#include "common/cgroup.h"
#include "common/proto/control.pb.h"
#include "common/proto/handover.pb.h"
#include "migrate/destination.h"
#include "migrate/home_place.h"

namespace gestalt {

class HomeStreams {
 public:
  // Both must outlive this. `state`: as the deputy has left them.
  HomeStreams(HomePlace& home, Cgroup& unit) : home_(home), unit_(unit) {}

  // kBlocked: there is input that cannot be put back. kProtocol: the two do not fit.
  [[nodiscard]] Result<RestorePlan> restore(wire::HandOver hand_over, wire::DeputyState state);
  // Just before the process runs. Others that write into its standard input are held meanwhile.
  [[nodiscard]] Result<void> deliver();

 private:
  struct Output {
    int number = 0;
    std::string rest;
  };

  [[nodiscard]] Result<std::string> rest_of(const wire::HandOverOutput& output,
                                            std::uint64_t offset) const;
  [[nodiscard]] Result<void> take_input();
  [[nodiscard]] Result<void> write_output(const Output& output);
  [[nodiscard]] Result<void> write_for_deputy(const Output& output, int fd);
  [[nodiscard]] Result<void> put_back_input() const;
  [[nodiscard]] Result<void> refill_pipe() const;
  [[nodiscard]] Result<void> type_again() const;
  [[nodiscard]] bool is_fifo(int number) const;
  [[nodiscard]] bool is_terminal(int number) const;

  HomePlace& home_;
  Cgroup& unit_;
  wire::HandOver hand_over_;
  wire::DeputyState state_;
  std::vector<Output> outputs_;
  std::string input_;
};

}  // namespace gestalt
