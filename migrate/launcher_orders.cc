#include "migrate/launcher_orders.h"

#include <charconv>
#include <string_view>

#include "common/fd.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

// The next string, without its NUL. Nothing: there is none.
bool take(std::string_view& text, std::string& out) {
  auto end = text.find('\0');
  if (end == std::string_view::npos) return false;
  out = text.substr(0, end);
  text.remove_prefix(end + 1);
  return true;
}

}  // namespace

std::string launch_text(const LaunchRequest& request) {
  std::string out = std::to_string(request.argv.size());
  out.push_back('\0');
  for (const auto* list : {&request.argv, &request.environment})
    for (const auto& each : *list) out.append(each.c_str(), each.size() + 1);
  return out;
}

Result<void> parse_launch_text(const std::string& text, LaunchRequest& request) {
  std::string_view rest(text);
  std::string word;
  std::size_t arguments = 0;
  bool counted =
      take(rest, word) &&
      std::from_chars(word.data(), word.data() + word.size(), arguments).ec == std::errc();
  if (!counted) return fail(ErrorCode::kProtocol, "a program without a count");
  for (; arguments > 0; --arguments) {
    if (!take(rest, word)) return fail(ErrorCode::kProtocol, "arguments are missing");
    request.argv.push_back(word);
  }
  while (take(rest, word)) request.environment.push_back(word);
  if (!rest.empty()) return fail(ErrorCode::kProtocol, "a string without an end");
  return {};
}

Result<std::int64_t> order_launch(int socket, const LaunchRequest& request, Deadline deadline) {
  std::string text = launch_text(request);
  std::vector<std::int32_t> numbers = request.numbers;
  std::vector<int> descriptors;
  for (auto [ours, theirs] : request.descriptors) {
    descriptors.push_back(ours);
    numbers.push_back(theirs);
  }
  if (numbers.size() > kMaxLaunchNumbers || text.size() > kMaxLaunchText ||
      descriptors.size() > kMaxLaunchDescriptors)
    return fail(ErrorCode::kInvalidArgument, "too much for the launcher");
  LaunchHeader header{request.order, static_cast<std::uint32_t>(numbers.size()),
                      static_cast<std::uint32_t>(text.size()),
                      static_cast<std::uint32_t>(descriptors.size())};
  GESTALT_TRY(write_all(socket, std::as_bytes(std::span(&header, 1)), deadline));
  GESTALT_TRY(write_all(socket, std::as_bytes(std::span(numbers)), deadline));
  GESTALT_TRY(write_all(socket, std::as_bytes(std::span(text)), deadline));
  if (!descriptors.empty()) GESTALT_TRY(send_fds(socket, descriptors));
  std::int64_t answer = 0;
  GESTALT_TRY(read_exact(socket, std::as_writable_bytes(std::span(&answer, 1)), deadline));
  if (answer < 0) return fail_errno(static_cast<int>(-answer), "launch a process at home");
  return answer;
}

}  // namespace gestalt
