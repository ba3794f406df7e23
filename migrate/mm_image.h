// Reading CRIU's mm-PID.img: which areas its lazy restore gives to us by userfaultfd.
// One message, whose field 14 is repeated: {1: start, 2: end, 6: mmap flags, 7: CRIU's kind
// of area}.
#pragma once

#include <string_view>
#include <vector>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

[[nodiscard]] Result<std::vector<PageSet::Range>> parse_lazy_areas(std::string_view content);

}  // namespace gestalt
