#include "migrate/files_image.h"

#include <cstring>

#include "common/fd.h"
#include "migrate/criu_image.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kFilesMagic = 0x56303138;  // FILES_MAGIC
constexpr int kRegularField = 3;                   // file_entry.reg
// reg_file_entry
constexpr int kName = 6;
constexpr int kSize = 8;
constexpr int kMode = 10;

void put_number(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void put(std::string& out, const MessageField& field) {
  put_number(out, static_cast<std::uint64_t>(field.number) << 3 | (field.is_number ? 0U : 2U));
  put_number(out, field.is_number ? field.value : field.bytes.size());
  if (!field.is_number) out += field.bytes;
}

// Those of other wire types would be lost.
Result<std::vector<MessageField>> split_known(std::string_view message) {
  GESTALT_ASSIGN(auto fields, split_message(message));
  for (const auto& field : fields)
    if (!field.is_number && field.bytes.data() == nullptr)
      return fail(ErrorCode::kProtocol, "a files image of another kind");
  return fields;
}

// In a session they are found through links in /proc.
constexpr std::string_view kViewPlaces[] = {"/run/gestalt/machine/", "/run/gestalt/proc/"};

// "/proc/stat" for "/run/gestalt/machine/stat"; empty: it is nothing of the view's.
std::string name_in_proc(std::string_view name) {
  for (auto place : kViewPlaces)
    if (name.starts_with(place)) return "/proc/" + std::string(name.substr(place.size()));
  return {};
}

struct Terminals {
  const std::string& there;
  const std::string& here;
};

// The entry of a file, changed; empty: it stays.
Result<std::string> changed_entry(std::string_view entry, const Terminals& terminals) {
  GESTALT_ASSIGN(auto fields, split_known(entry));
  std::string_view name;
  for (const auto& field : fields)
    if (field.number == kName) name = field.bytes;
  bool is_terminal = !terminals.there.empty() && name == terminals.there;
  auto in_proc = name_in_proc(name);
  if (!is_terminal && in_proc.empty() && !name.starts_with("/proc/") && !name.starts_with("/sys/"))
    return std::string();
  std::string out;
  for (auto field : fields) {
    if (field.number == kSize || field.number == kMode) continue;
    if (field.number == kName && is_terminal) field.bytes = terminals.here;
    if (field.number == kName && !in_proc.empty()) field.bytes = in_proc;
    put(out, field);
  }
  return out;
}

Result<std::string> changed_message(std::string_view message, const Terminals& terminals) {
  GESTALT_ASSIGN(auto fields, split_message(message));
  std::string entry;
  for (const auto& field : fields)
    if (field.number == kRegularField && !field.is_number) {
      GESTALT_ASSIGN(entry, changed_entry(field.bytes, terminals));
    }
  if (entry.empty()) return std::string(message);
  GESTALT_ASSIGN(fields, split_known(message));
  std::string out;
  for (auto field : fields) {
    if (field.number == kRegularField) field.bytes = entry;
    put(out, field);
  }
  return out;
}

}  // namespace

Result<void> adapt_files(std::string& files_image, const std::string& terminal,
                         const std::string& new_terminal) {
  GESTALT_ASSIGN(auto messages, split_criu_image(files_image, kFilesMagic));
  std::string out = files_image.substr(0, 8);
  for (auto message : messages) {
    GESTALT_ASSIGN(auto changed, changed_message(message, {terminal, new_terminal}));
    auto length = static_cast<std::uint32_t>(changed.size());
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += changed;
  }
  files_image = std::move(out);
  return {};
}

Result<void> adapt_files_in(const std::string& directory, const std::string& terminal,
                            const std::string& new_terminal) {
  auto path = directory + "/files.img";
  auto content = read_file(path, 1U << 30);
  if (!content && content.error().code == ErrorCode::kNotFound) return {};
  if (!content) return std::unexpected(std::move(content).error());
  std::string changed = *content;
  GESTALT_TRY(adapt_files(changed, terminal, new_terminal));
  return changed == *content ? Result<void>() : replace_file(path, changed, 0600);
}

}  // namespace gestalt
