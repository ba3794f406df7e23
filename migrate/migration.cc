#include "migrate/migration.h"

#include <sys/resource.h>

#include "common/format.h"

namespace gestalt {

Result<Strategy> strategy_of(std::string_view mode) {
  if (mode.empty()) mode = kDefaultMode;
  if (mode == "eager") return Strategy{.fetch_before_resume = true};
  if (mode == "lazy") return Strategy{};
  if (mode == "pre-copy")
    return Strategy{.rounds = true, .fetch_before_resume = true, .default_rounds = 5};
  if (mode == "post-copy") return Strategy{.push_after_resume = true};
  if (mode == "hybrid")
    return Strategy{.rounds = true, .push_after_resume = true, .default_rounds = 3};
  return fail(ErrorCode::kInvalidArgument, formatted("there is no migration mode '{}'", mode),
              "modes: eager, lazy, pre-copy, post-copy, hybrid");
}

double cpu_seconds() {
  double sum = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage{};
    (void)::getrusage(who, &usage);
    for (const timeval& time : {usage.ru_utime, usage.ru_stime})
      sum += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  }
  return sum;
}

}  // namespace gestalt
