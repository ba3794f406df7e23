// The connection that common/direct_stream.h runs over: who listens, who connects, and how each
// knows the other. Both have two random words, which came to them over connections that are
// authenticated; each shows one of them. Like page connections: authenticated, not encrypted.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/proto/control.pb.h"

namespace gestalt {

inline constexpr std::size_t kDirectWordBytes = 32;

// One end; `done` runs at most once, from the loop, with the connection, non-blocking.
class DirectLink {
 public:
  using Done = std::function<void(Result<Fd>)>;
  static constexpr Clock::duration kTimeout = std::chrono::seconds(5);

  // Fills in port and words of `offer`, whose address is one of this machine's.
  [[nodiscard]] static Result<std::unique_ptr<DirectLink>> listen(EventLoop& loop,
                                                                  wire::StdioDirectOffer& offer,
                                                                  Done done);
  [[nodiscard]] static Result<std::unique_ptr<DirectLink>> connect(
      EventLoop& loop, const wire::StdioDirectOffer& offer, Done done);
  ~DirectLink();
  DirectLink(const DirectLink&) = delete;
  DirectLink& operator=(const DirectLink&) = delete;

 private:
  DirectLink(EventLoop& loop, Done done);
  void accept_one();
  void connected();
  void exchange();
  void finish(Result<Fd> outcome);

  EventLoop& loop_;
  Done done_;
  bool listens_ = false;
  Fd listener_;
  Fd socket_;
  std::string shown_;    // by us
  std::string awaited_;  // from the other
  std::string received_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace gestalt
