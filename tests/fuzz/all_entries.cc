#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {

std::vector<Entry> all_entries() {
  std::vector<Entry> all;
  for (auto part : {frame_entries(), kernel_entries(), page_entries(), stdio_entries(),
                    text_entries(), view_entries()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace gestalt::fuzz
