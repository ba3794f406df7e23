// The Store in one SQLite file: WAL, synchronous=FULL. The file carries its schema's
// version; an older one is migrated when it is opened, a newer one is refused.
#pragma once

#include <memory>
#include <string>

#include "daemon/store.h"

namespace gestalt {

// Opens or makes the file (0600). A damaged file is kSystem with the remedy; a file
// that another daemon has open is kBusy.
[[nodiscard]] Result<std::unique_ptr<Store>> open_sqlite_store(const std::string& path);

}  // namespace gestalt
