#include "common/node_set.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "common/format.h"

namespace gestalt {
namespace {

// Far more than kMaxNodeSetNames full names would need; longer input is not looked at.
constexpr std::size_t kMaxTextBytes = 8U << 20;
constexpr std::size_t kMaxNumberDigits = 9;

Unexpected bad_set(std::string_view text, std::string_view why) {
  return fail(ErrorCode::kInvalidArgument,
              formatted("node set \"{}\": {}", text.substr(0, 100), why),
              "write it like n[001-064,070],login");
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) { return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-'; }

struct Number {
  std::uint32_t value = 0;
  std::size_t digits = 0;
};

Result<Number> parse_number(std::string_view text, std::string_view whole) {
  if (text.empty() || text.size() > kMaxNumberDigits ||
      !std::all_of(text.begin(), text.end(), is_digit))
    return bad_set(whole, formatted("\"{}\" is not a number of 1 to 9 digits", text));
  Number out{0, text.size()};
  std::from_chars(text.data(), text.data() + text.size(), out.value);
  return out;
}

// "001-064" to its numbers as text.
Result<void> expand_range(std::string_view range, std::string_view whole,
                          std::vector<std::string>& out) {
  auto dash = range.find('-');
  GESTALT_ASSIGN(Number first, parse_number(range.substr(0, dash), whole));
  Number last = first;
  if (dash != std::string_view::npos) {
    GESTALT_ASSIGN(last, parse_number(range.substr(dash + 1), whole));
  }
  bool padded = first.digits > 1 && range.front() == '0';
  bool last_padded = last.digits > 1 && range[range.size() - last.digits] == '0';
  if ((padded && last.digits != first.digits) || (last_padded && !padded))
    return bad_set(whole, formatted("the ends of {} differ in width", range));
  if (last.value < first.value)
    return bad_set(whole, formatted("the range {} runs backwards", range));
  if (last.value - first.value >= kMaxNodeSetNames - out.size())
    return bad_set(whole, formatted("more than {} names", kMaxNodeSetNames));
  std::size_t width = padded ? first.digits : 0;
  for (std::uint32_t value = first.value; value <= last.value; ++value)
    out.push_back(formatted("{:0>{}}", value, width));
  return {};
}

Result<std::vector<std::string>> expand_bracket(std::string_view inside, std::string_view whole) {
  std::vector<std::string> out;
  while (true) {
    auto comma = inside.find(',');
    GESTALT_TRY(expand_range(inside.substr(0, comma), whole, out));
    if (comma == std::string_view::npos) return out;
    inside.remove_prefix(comma + 1);
  }
}

// One element between the commas: literal text and brackets in turn.
Result<std::vector<std::string>> expand_element(std::string_view element, std::string_view whole) {
  std::vector<std::string> names{""};
  while (!element.empty()) {
    std::vector<std::string> parts;
    if (element.front() == '[') {
      auto end = element.find(']');
      if (end == std::string_view::npos) return bad_set(whole, "a [ without its ]");
      GESTALT_ASSIGN(parts, expand_bracket(element.substr(1, end - 1), whole));
      element.remove_prefix(end + 1);
    } else {
      auto end = std::min(element.find('['), element.size());
      parts.emplace_back(element.substr(0, end));
      element.remove_prefix(end);
    }
    if (parts.front().size() + names.front().size() > kMaxNodeNameBytes)
      return bad_set(whole, formatted("names of more than {} characters", kMaxNodeNameBytes));
    if (parts.size() > kMaxNodeSetNames / names.size())
      return bad_set(whole, formatted("more than {} names", kMaxNodeSetNames));
    std::vector<std::string> product;
    product.reserve(names.size() * parts.size());
    for (const auto& name : names)
      for (const auto& part : parts) product.push_back(name + part);
    names = std::move(product);
  }
  return names;
}

// Up to the next comma outside brackets.
std::string_view take_element(std::string_view& rest) {
  std::size_t end = 0;
  bool inside = false;
  for (; end < rest.size() && (inside || rest[end] != ','); ++end) {
    if (rest[end] == '[') inside = true;
    if (rest[end] == ']') inside = false;
  }
  auto element = rest.substr(0, end);
  rest.remove_prefix(end);
  return element;
}

// Names that differ in their last number only: the same prefix, and the same width
// where the number has leading zeros (width 0: it has none).
using Family = std::pair<std::string, std::size_t>;

std::string fold_family(const Family& family, const std::set<std::uint32_t>& numbers) {
  auto spell = [&](std::uint32_t value) { return formatted("{:0>{}}", value, family.second); };
  if (numbers.size() == 1) return family.first + spell(*numbers.begin());
  std::string out = family.first + "[";
  for (auto it = numbers.begin(); it != numbers.end();) {
    std::uint32_t first = *it;
    std::uint32_t last = first;
    while (++it != numbers.end() && *it == last + 1) last = *it;
    if (out.back() != '[') out += ',';
    out += spell(first);
    if (last != first) out += '-' + spell(last);
  }
  return out + "]";
}

}  // namespace

bool valid_node_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNodeNameBytes &&
         std::all_of(name.begin(), name.end(), is_name_char) && name.front() != '-' &&
         name.back() != '-';
}

Result<void> check_node_name(std::string_view name) {
  if (valid_node_name(name)) return {};
  return fail(ErrorCode::kInvalidArgument,
              formatted("\"{}\" is no valid node name", name.substr(0, 100)),
              "use 1 to 63 of a-z, 0-9 and -, not beginning or ending with -");
}

Result<std::vector<std::string>> expand_node_set(std::string_view text) {
  if (text.size() > kMaxTextBytes) return bad_set(text, "too long");
  std::vector<std::string> out;
  std::set<std::string> seen;
  std::string_view rest = text;
  while (true) {
    auto element = take_element(rest);
    if (element.empty()) return bad_set(text, "an empty name");
    GESTALT_ASSIGN(auto names, expand_element(element, text));
    for (auto& name : names) {
      if (auto ok = check_node_name(name); !ok)
        return std::unexpected(std::move(ok).error().in("node set"));
      if (!seen.insert(name).second) continue;
      if (seen.size() > kMaxNodeSetNames)
        return bad_set(text, formatted("more than {} names", kMaxNodeSetNames));
      out.push_back(std::move(name));
    }
    if (rest.empty()) return out;
    rest.remove_prefix(1);  // the comma
  }
}

std::string fold_node_set(const std::vector<std::string>& names) {
  // Keyed by the prefix, so that the result is sorted.
  std::map<Family, std::set<std::uint32_t>> families;
  std::map<std::string, std::string> folded;  // first name -> text
  for (const auto& name : names) {
    std::size_t begin = name.size();
    while (begin > 0 && is_digit(name[begin - 1]) && name.size() - begin < kMaxNumberDigits)
      --begin;
    std::size_t digits = name.size() - begin;
    if (digits == 0) {
      folded[name] = name;
      continue;
    }
    // A width keeps 008-010 apart from 8-10, but joins 098-102, which is one range.
    std::uint32_t value = 0;
    std::from_chars(name.data() + begin, name.data() + name.size(), value);
    bool padded = digits > 1 && name[begin] == '0';
    Family family{name.substr(0, begin), padded ? digits : 0};
    families[family].insert(value);
  }
  // Numbers without leading zeros that fill a padded family's width belong to it.
  for (auto& [family, numbers] : families) {
    if (family.second == 0) continue;
    auto plain = families.find(Family{family.first, 0});
    if (plain == families.end()) continue;
    std::erase_if(plain->second, [&](std::uint32_t value) {
      if (formatted("{}", value).size() != family.second) return false;
      numbers.insert(value);
      return true;
    });
  }
  for (const auto& [family, numbers] : families) {
    if (numbers.empty()) continue;
    std::string text = fold_family(family, numbers);
    folded[formatted("{}{:0>{}}", family.first, *numbers.begin(), family.second)] = text;
  }
  std::string out;
  for (const auto& [first, text] : folded) out += (out.empty() ? "" : ",") + text;
  return out;
}

}  // namespace gestalt
