// libFuzzer's entry point for the parser named GESTALT_FUZZ_ENTRY. Its valid inputs are
// the first corpus: `fuzz_NAME --write-seeds DIR`, then `fuzz_NAME DIR`.
#include <cstdint>
#include <cstring>
#include <fstream>

#include "tests/fuzz/entries.h"

namespace {

const gestalt::fuzz::Entry& entry() {
  static const gestalt::fuzz::Entry found = [] {
    for (const auto& each : gestalt::fuzz::all_entries())
      if (std::strcmp(each.name, GESTALT_FUZZ_ENTRY) == 0) return each;
    std::fprintf(stderr, "no entry is called %s\n", GESTALT_FUZZ_ENTRY);
    std::abort();
  }();
  return found;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc != 3 || std::strcmp((*argv)[1], "--write-seeds") != 0) return 0;
  int number = 0;
  for (const std::string& seed : entry().seeds()) {
    std::ofstream file(std::string((*argv)[2]) + "/seed-" + std::to_string(number++),
                       std::ios::binary);
    file << seed;
  }
  std::exit(0);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  entry().run({reinterpret_cast<const char*>(data), size});
  return 0;
}
