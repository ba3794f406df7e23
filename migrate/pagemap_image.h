// Reading CRIU's pagemap images: which pages CRIU wrote into its images, and which it left
// to a lazy-pages daemon, that is to us. The first message holds the pages id, the others
// {1: address, 2: pages, 3: in_parent, 4: flags, 5: pages as of CRIU 4.2}.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

// All of one pagemap image's content; anything odd is kProtocol.
// Pages whose content is in the pages image beside it. A page may be both: then a lazy
// restore leaves it to us all the same.
[[nodiscard]] Result<PageSet> parse_dumped_pages(const std::string& content);
// Those that a lazy restore takes from there.
[[nodiscard]] Result<PageSet> parse_eager_pages(const std::string& content);

}  // namespace gestalt
