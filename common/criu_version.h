// Which CRIU is installed.
#pragma once

#include <string>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

// "4.2.1", of the CRIU that is installed. kNotFound: there is none. kTimeout.
[[nodiscard]] Result<std::string> criu_version(Deadline deadline);

}  // namespace gestalt
