// Reading CRIU's pagemap images: which pages CRIU left to a lazy-pages daemon, that is
// to us. Format: two u32 magics, then u32 length and a protobuf each; the first holds
// the pages id, the others {1: address, 2: pages, 3: in_parent, 4: flags, 5: pages as
// of CRIU 4.2}.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/result.h"
#include "migrate/page_ranges.h"

namespace gestalt {

// The lazy pages of one pagemap image's content; anything odd is kProtocol.
[[nodiscard]] Result<PageRanges> parse_lazy_pages(const std::string& content);

// The same of all pagemap-PID.img in a directory, by pid.
[[nodiscard]] Result<std::map<std::uint32_t, PageRanges>> read_lazy_pages(
    const std::string& directory);

}  // namespace gestalt
