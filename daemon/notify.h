// sd_notify(3) without libsystemd: tells the service manager how we are.
#pragma once

#include <string_view>

namespace gestalt {

// For instance "READY=1". Nothing happens where no service manager asked for it.
void notify_service_manager(std::string_view state);

}  // namespace gestalt
