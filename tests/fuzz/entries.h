// Every parser of bytes that come from a wire, a disk or a user, behind one kind of
// function. Two programs call them: libFuzzer's (libfuzzer_main.cc, one for each entry)
// and fuzz_entries_test.cc, which feeds each the same generated inputs in every test run.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gestalt::fuzz {

struct Entry {
  const char* name;
  // Takes any bytes. Ends by abort() if the parser broke a promise; errors are fine.
  void (*run)(std::string_view bytes);
  // Valid inputs, to be mutated.
  std::vector<std::string> (*seeds)();
};

[[nodiscard]] std::span<const Entry> frame_entries();
[[nodiscard]] std::span<const Entry> kernel_entries();
[[nodiscard]] std::span<const Entry> page_entries();
[[nodiscard]] std::span<const Entry> stdio_entries();
[[nodiscard]] std::span<const Entry> text_entries();
[[nodiscard]] std::span<const Entry> view_entries();
[[nodiscard]] std::vector<Entry> all_entries();

// A promise that must hold for every input.
inline void promise(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace gestalt::fuzz
