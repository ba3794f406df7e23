// The control plane's frames.
#include <google/protobuf/stubs/logging.h>

#include "common/frame.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

struct Outcome {
  std::vector<std::string> messages;  // serialised again
  bool failed = false;
  bool operator==(const Outcome&) const = default;
};

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

bool take_messages(FrameDecoder& decoder, Outcome& outcome) {
  for (;;) {
    auto message = decoder.next();
    if (!message) {
      outcome.failed = true;
      promise(message.error().code == ErrorCode::kProtocol, "a bad frame is a protocol error");
      return false;
    }
    if (!*message) return true;
    outcome.messages.push_back((*message)->SerializeAsString());
  }
}

Outcome decode(std::string_view bytes, std::size_t piece) {
  FrameDecoder decoder(kMaxUnauthenticatedFrameBytes);
  Outcome outcome;
  while (!bytes.empty()) {
    std::size_t count = std::min(piece, bytes.size());
    decoder.append(as_bytes(bytes.substr(0, count)));
    bytes.remove_prefix(count);
    if (!take_messages(decoder, outcome)) break;
  }
  return outcome;
}

// Whatever the pieces in which the bytes come, the messages are the same; and each of
// them survives being sent again.
void run_frame(std::string_view bytes) {
  // protobuf prints a line for every string that is not UTF-8.
  [[maybe_unused]] static auto* const noise = google::protobuf::SetLogHandler(nullptr);
  Outcome whole = decode(bytes, bytes.size());
  std::size_t piece = 1 + (bytes.empty() ? 0 : static_cast<unsigned char>(bytes.front()) % 13);
  promise(decode(bytes, piece) == whole, "the result does not depend on how bytes arrive");
  for (const std::string& text : whole.messages) {
    wire::Message message;
    promise(message.ParseFromString(text), "what was decoded can be parsed again");
    auto frame = encode_frame(message);
    promise(frame.has_value(), "what was decoded can be encoded");
    promise(decode(*frame, frame->size()).messages.size() == 1, "and decoded once more");
    if (message.has_error())
      promise(to_wire(from_wire(message.error())).message() == message.error().message(),
              "an error keeps its message");
  }
}

std::string frame(const wire::Message& message) { return encode_frame(message).value_or(""); }

std::vector<std::string> frame_seeds() {
  wire::Message run;
  run.set_request_id(7);
  auto* spec = run.mutable_run_request()->mutable_spec();
  spec->add_argv("xz");
  spec->add_argv("-9");
  spec->add_environment("PATH=/usr/bin");
  spec->set_working_directory("/root");
  spec->mutable_identity()->add_groups(1000);
  spec->add_limits()->set_soft(1024);
  wire::Message data;
  data.mutable_stdio_data()->set_job_id(1);
  data.mutable_stdio_data()->set_offset(4096);
  data.mutable_stdio_data()->set_data(std::string(500, '\x80'));
  wire::Message hello;
  hello.mutable_agent_hello()->set_node("node1");
  hello.mutable_agent_hello()->add_jobs()->set_pid(12345);
  wire::Message error = error_reply(9, Error{ErrorCode::kNotFound, "no such node", "name one"});
  return {frame(run),
          frame(data),
          frame(hello),
          frame(error),
          frame(run) + frame(data) + frame(hello),
          std::string(4, '\0')};
}

}  // namespace

std::span<const Entry> frame_entries() {
  static constexpr Entry kEntries[] = {{"frame", run_frame, frame_seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
