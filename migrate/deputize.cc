#include "migrate/deputize.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <linux/close_range.h>

#include <csignal>

#include "common/cgroup.h"
#include "migrate/injector.h"
#include "migrate/thread_stops.h"

namespace gestalt {
namespace {

// All of it runs in a task of its own (run_apart), which traces.
class Deputizing {
 public:
  Deputizing(pid_t pid, const DeputyPlan& plan) : pid_(pid), plan_(plan), threads_(pid) {}

  Result<void> run() {
    GESTALT_TRY(threads_.stop_all());
    GESTALT_ASSIGN(auto main, Injector::attach_main(pid_));
    GESTALT_TRY(threads_.stop_all());  // none is new now
    if (plan_.group >= 0) GESTALT_TRY(move_to_cgroup(plan_.group, pid_));
    auto done = replace(main);
    // It must not run its own program again, not for a moment.
    if (!done && plan_.frozen_group >= 0) (void)move_to_cgroup(plan_.frozen_group, pid_);
    return done;
  }

 private:
  Result<void> replace(Injector& main) {
    GESTALT_ASSIGN(auto block, write_program(main, plan_.program));
    if (plan_.on_keeper) GESTALT_TRY(leave_keeper(main));
    GESTALT_ASSIGN([[maybe_unused]] auto closed,
                   main.call(SYS_close_range, {3, ~0U, CLOSE_RANGE_CLOEXEC}));
    GESTALT_TRY(
        main.execute(block.path, block.argv, block.environment, [this] { threads_.reap(); }));
    main.detach();
    return {};
  }

  // Out of its session, so that no signal of the terminal's or to the group reaches it, and
  // without descriptors, so that nobody waits for the end of a pipe that it would hold.
  Result<void> leave_keeper(Injector& main) {
    GESTALT_ASSIGN(auto keeper, main.clone_with_memory());
    auto prepared = [&]() -> Result<void> {
      GESTALT_ASSIGN([[maybe_unused]] auto session, keeper.call(SYS_setsid, {}));
      GESTALT_ASSIGN([[maybe_unused]] auto closed, keeper.call(SYS_close_range, {0, ~0U, 0}));
      if (plan_.frozen_group >= 0) GESTALT_TRY(move_to_cgroup(plan_.frozen_group, keeper.pid()));
      return {};
    }();
    if (!prepared) {
      (void)::kill(keeper.pid(), SIGKILL);
      return prepared;
    }
    plan_.on_keeper(keeper.pid());
    keeper.detach();
    return {};
  }

  pid_t pid_;
  const DeputyPlan& plan_;
  ThreadStops threads_;
};

}  // namespace

Result<void> deputize(pid_t pid, const DeputyPlan& plan) {
  return run_apart([&] { return Deputizing(pid, plan).run(); });
}

}  // namespace gestalt
