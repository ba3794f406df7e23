#include "migrate/page_wire.h"

#include <endian.h>

#include <cstring>

namespace gestalt {
namespace {

constexpr std::uint16_t kMagic = 0x4750;  // "GP"

std::uint32_t max_payload(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return 36;
    case FrameType::kProof:
      return 32;
    case FrameType::kStateFile:
      return 255;
    case FrameType::kStateData:
    case FrameType::kHandover:
      return kMaxPagesPerFrame * kPageBytes;
    case FrameType::kPages:
      return kMaxPayloadBytes;
    case FrameType::kZeroPages:
      return 8;
    case FrameType::kAbort:
      return 1024;
    case FrameType::kStateEnd:
    case FrameType::kPagesEnd:
    case FrameType::kReady:
    case FrameType::kResumed:
      return 0;
  }
  return 0;
}

}  // namespace

std::vector<std::byte> encode_header(const FrameHeader& header) {
  std::vector<std::byte> out(kHeaderBytes);
  std::uint16_t magic = htobe16(kMagic);
  std::uint16_t type = htobe16(static_cast<std::uint16_t>(header.type));
  std::uint32_t length = htobe32(header.length);
  std::uint64_t argument = htobe64(header.argument);
  std::memcpy(out.data(), &magic, 2);
  std::memcpy(out.data() + 2, &type, 2);
  std::memcpy(out.data() + 4, &length, 4);
  std::memcpy(out.data() + 8, &argument, 8);
  return out;
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kHeaderBytes) return fail(ErrorCode::kProtocol, "short page frame header");
  std::uint16_t magic = 0;
  std::uint16_t type = 0;
  FrameHeader header;
  std::memcpy(&magic, bytes.data(), 2);
  std::memcpy(&type, bytes.data() + 2, 2);
  std::memcpy(&header.length, bytes.data() + 4, 4);
  std::memcpy(&header.argument, bytes.data() + 8, 8);
  type = be16toh(type);
  header.type = static_cast<FrameType>(type);
  header.length = be32toh(header.length);
  header.argument = be64toh(header.argument);
  bool known = type >= static_cast<std::uint16_t>(FrameType::kHello) &&
               type <= static_cast<std::uint16_t>(FrameType::kAbort);
  if (be16toh(magic) != kMagic || !known)
    return fail(ErrorCode::kProtocol, "the page connection carries no page frames");
  if (header.length > max_payload(header.type))
    return fail(ErrorCode::kProtocol,
                std::format("page frame of type {} with {} bytes", type, header.length));
  return header;
}

std::vector<std::byte> encode_page_run(std::uint32_t pid, std::uint32_t count) {
  std::vector<std::byte> out(8);
  pid = htobe32(pid);
  count = htobe32(count);
  std::memcpy(out.data(), &pid, 4);
  std::memcpy(out.data() + 4, &count, 4);
  return out;
}

Result<PageRun> decode_page_run(const FrameHeader& header, std::span<const std::byte> payload) {
  if (payload.size() < 8) return fail(ErrorCode::kProtocol, "page frame without pages");
  PageRun run;
  std::memcpy(&run.pid, payload.data(), 4);
  std::memcpy(&run.count, payload.data() + 4, 4);
  run.pid = be32toh(run.pid);
  run.count = be32toh(run.count);
  run.address = header.argument;
  bool has_data = header.type == FrameType::kPages;
  if (has_data && (run.count > kMaxPagesPerFrame || payload.size() != 8 + run.count * kPageBytes))
    return fail(ErrorCode::kProtocol, "page frame whose length and count disagree");
  if (run.count == 0 || run.address % kPageBytes != 0 || run.address >= kAddressLimit ||
      run.count * kPageBytes > kAddressLimit - run.address)
    return fail(ErrorCode::kProtocol, "page frame for impossible addresses");
  return run;
}

Result<void> PageConnection::send(FrameType type, std::uint64_t argument,
                                  std::span<const std::byte> payload, Deadline deadline) {
  auto frame = encode_header({type, static_cast<std::uint32_t>(payload.size()), argument});
  if (payload.size() <= 65536) {
    frame.insert(frame.end(), payload.begin(), payload.end());
    return stream_->send(frame, deadline);
  }
  GESTALT_TRY(stream_->send(frame, deadline));
  return stream_->send(payload, deadline);
}

Result<void> PageConnection::send(FrameType type, std::uint64_t argument, std::string_view payload,
                                  Deadline deadline) {
  return send(type, argument, std::as_bytes(std::span(payload)), deadline);
}

Result<void> PageConnection::send_pages(const PageRun& run, std::span<const std::byte> pages,
                                        Deadline deadline) {
  auto frame =
      encode_header({FrameType::kPages, static_cast<std::uint32_t>(8 + pages.size()), run.address});
  auto front = encode_page_run(run.pid, run.count);
  frame.insert(frame.end(), front.begin(), front.end());
  GESTALT_TRY(stream_->send(frame, deadline));
  return stream_->send(pages, deadline);
}

Result<FrameHeader> PageConnection::receive_header(Deadline deadline) {
  std::array<std::byte, kHeaderBytes> bytes;
  GESTALT_TRY(stream_->receive(bytes, deadline));
  GESTALT_ASSIGN(auto header, decode_header(bytes));
  if (header.type != FrameType::kAbort) return header;
  std::vector<std::byte> reason;
  GESTALT_TRY(receive_payload(header, reason, deadline));
  std::string text(reinterpret_cast<const char*>(reason.data()), reason.size());
  for (char& c : text) c = static_cast<unsigned char>(c) < 32 ? ' ' : c;
  return fail(ErrorCode::kUnavailable, std::format("the other node gave up: {}", text));
}

Result<void> PageConnection::receive_payload(const FrameHeader& header,
                                             std::vector<std::byte>& payload, Deadline deadline) {
  payload.resize(header.length);
  return stream_->receive(payload, deadline);
}

Result<FrameHeader> PageConnection::expect(FrameType type, std::vector<std::byte>& payload,
                                           Deadline deadline) {
  GESTALT_ASSIGN(auto header, receive_header(deadline));
  if (header.type != type)
    return fail(ErrorCode::kProtocol,
                std::format("page frame of type {}, expected {}", static_cast<int>(header.type),
                            static_cast<int>(type)));
  GESTALT_TRY(receive_payload(header, payload, deadline));
  return header;
}

}  // namespace gestalt
