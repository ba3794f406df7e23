// CRIU's image of open files (files.img), adapted to the node where it is to be restored.
#pragma once

#include <string>

#include "common/result.h"

namespace gestalt {

// Opened by name, what was `terminal` at the source is `new_terminal` here ("/dev/pts/3"; empty:
// there is none). What a session's single view has as files of its own is there /proc's
// (docs/view.md). CRIU compares sizes and modes of files, which for a terminal's and for those of
// /proc and /sys mean nothing: they are taken out. Damaged images are kProtocol.
[[nodiscard]] Result<void> adapt_files(std::string& files_image, const std::string& terminal,
                                       const std::string& new_terminal);
// The same of the image in that directory, if there is one.
[[nodiscard]] Result<void> adapt_files_in(const std::string& directory, const std::string& terminal,
                                          const std::string& new_terminal);

}  // namespace gestalt
