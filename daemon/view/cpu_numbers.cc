#include "daemon/view/cpu_numbers.h"

#include <algorithm>
#include <bit>

#include "common/format.h"
#include "daemon/view/text.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kGroupBits = 32;
constexpr char kHexDigits[] = "0123456789abcdef";

Unexpected bad(const char* what) {
  return fail(ErrorCode::kProtocol, formatted("a CPU {} that no kernel writes", what));
}

std::string_view without_newline(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// Takes what comes before the next comma off the front.
std::string_view next_part(std::string_view& text) {
  auto part = text.substr(0, text.find(','));
  text.remove_prefix(std::min(text.size(), part.size() + 1));
  return part;
}

}  // namespace

std::uint32_t shown_cpus(std::uint32_t first, std::uint32_t count) {
  return first >= kMaxClusterCpus ? 0 : std::min(count, kMaxClusterCpus - first);
}

void CpuSet::add_range(std::uint32_t first, std::uint32_t count) {
  count = shown_cpus(first, count);
  for (std::uint32_t i = 0; i < count; ++i) add(first + i);
}

std::uint32_t CpuSet::next(std::uint32_t from) const {
  if (from >= kMaxClusterCpus) return kMaxClusterCpus;
  std::size_t index = from / 64;
  std::uint64_t word = words_[index] >> (from % 64) << (from % 64);
  while (word == 0 && ++index < words_.size()) word = words_[index];
  if (word == 0) return kMaxClusterCpus;
  return static_cast<std::uint32_t>(index * 64) +
         static_cast<std::uint32_t>(std::countr_zero(word));
}

std::uint32_t CpuSet::size() const {
  int count = 0;
  for (std::uint64_t word : words_) count += std::popcount(word);
  return static_cast<std::uint32_t>(count);
}

std::uint32_t CpuSet::end() const {
  for (std::size_t index = words_.size(); index > 0; --index)
    if (std::uint64_t word = words_[index - 1]; word != 0)
      return static_cast<std::uint32_t>(index * 64) -
             static_cast<std::uint32_t>(std::countl_zero(word));
  return 0;
}

Result<CpuSet> parse_cpu_list(std::string_view text) {
  text = without_newline(text);
  CpuSet set;
  if (text.ends_with(',')) return bad("list");
  while (!text.empty()) {
    auto part = next_part(text);
    auto dash = part.find('-');
    auto first = view_text::parse_number(part.substr(0, dash));
    auto last =
        dash == std::string_view::npos ? first : view_text::parse_number(part.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kMaxClusterCpus) return bad("list");
    set.add_range(static_cast<std::uint32_t>(*first),
                  static_cast<std::uint32_t>(*last - *first + 1));
  }
  return set;
}

Result<CpuSet> parse_cpu_mask(std::string_view text) {
  text = without_newline(text);
  auto groups = static_cast<std::uint32_t>(std::ranges::count(text, ',')) + 1;
  CpuSet set;
  for (bool is_first = true; groups > 0; is_first = false) {
    auto part = next_part(text);
    auto value = view_text::parse_number(part, 16);
    bool has_size = is_first ? part.size() <= 8 : part.size() == 8;
    if (!value || !has_size) return bad("mask");
    if (--groups >= kMaxClusterCpus / kGroupBits && *value != 0) return bad("mask");
    for (std::uint64_t rest = *value; rest != 0; rest &= rest - 1)
      set.add(groups * kGroupBits + static_cast<std::uint32_t>(std::countr_zero(rest)));
  }
  return set;
}

void append_cpu_list(std::string& out, const CpuSet& set) {
  std::uint32_t first = set.next(0);
  for (const char* separator = ""; first < kMaxClusterCpus; separator = ",") {
    std::uint32_t last = first;
    while (set.contains(last + 1)) ++last;
    out += separator;
    view_text::append_number(out, first);
    if (last > first) {
      out += '-';
      view_text::append_number(out, last);
    }
    first = set.next(last + 1);
  }
}

void append_cpu_mask(std::string& out, const CpuSet& set, std::uint32_t bits) {
  bits = std::min(std::max({bits, set.end(), 1U}), kMaxClusterCpus);
  for (std::uint32_t digit = (bits + 3) / 4; digit > 0; --digit) {
    out += kHexDigits[set.digit(digit - 1)];
    if (digit > 1 && digit % (kGroupBits / 4) == 1) out += ',';
  }
}

std::string cpu_list(const CpuSet& set) {
  std::string out;
  append_cpu_list(out, set);
  return out;
}

std::string cpu_mask(const CpuSet& set, std::uint32_t bits) {
  std::string out;
  append_cpu_mask(out, set, bits);
  return out;
}

}  // namespace gestalt
