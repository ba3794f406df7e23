// Node names, and the compact way of writing many of them: n[001-064,070],login.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

inline constexpr std::size_t kMaxNodeSetNames = 65'536;
inline constexpr std::size_t kMaxNodeNameBytes = 63;

// 1 to 63 of [a-z0-9-], not beginning or ending with '-': such a name is also a valid
// host name, file name and certificate name.
[[nodiscard]] bool valid_node_name(std::string_view name);
// The same as an error with the rule as its remedy.
[[nodiscard]] Result<void> check_node_name(std::string_view name);

// Names in the order written, each once. Several brackets in one name multiply.
// Leading zeros of a range's first number give the width. An empty set, a bad name, or
// more than kMaxNodeSetNames is kInvalidArgument.
[[nodiscard]] Result<std::vector<std::string>> expand_node_set(std::string_view text);

// The shortest form of these names, sorted; expanding it gives the same set of names.
[[nodiscard]] std::string fold_node_set(const std::vector<std::string>& names);

}  // namespace gestalt
