#include "daemon/view/fuse_channel.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstdlib>

#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

// Requests answered before the loop looks at anything else.
constexpr int kRequestsAtOnce = 256;
// Programs that list a new view ask for one thing after the other, and wait for each. To sleep
// between two of them would take longer than to answer: after a row of requests that came so
// soon, the next is waited for awake, as kvm's halt polling does it.
constexpr auto kSoon = std::chrono::microseconds(30);
constexpr int kRowOfSoonOnes = 32;

}  // namespace

Result<std::unique_ptr<FuseChannel>> FuseChannel::open(EventLoop& loop, Fd device,
                                                       const fuse_lowlevel_ops& operations,
                                                       void* owner, std::function<void()> on_end) {
  GESTALT_TRY(set_nonblocking(device.get(), true));
  std::unique_ptr<FuseChannel> channel(new FuseChannel(loop, std::move(device), std::move(on_end)));
  char name[] = "gestalt-view";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  channel->session_ = fuse_session_new(&args, &operations, sizeof operations, owner);
  if (channel->session_ == nullptr) return fail(ErrorCode::kSystem, "no FUSE session");
  // The name by which libfuse takes a descriptor that is mounted already. It owns it then.
  auto path = formatted("/dev/fd/{}", channel->device_.get());
  if (fuse_session_mount(channel->session_, path.c_str()) != 0)
    return fail(ErrorCode::kSystem, "libfuse refused the mounted descriptor");
  auto* self = channel.get();
  loop.watch(channel->device_.get(), EPOLLIN, [self](std::uint32_t) { self->read_requests(); });
  return channel;
}

FuseChannel::~FuseChannel() {
  if (device_) loop_.unwatch(device_.get());
  if (session_ != nullptr) {
    (void)device_.release();  // closed with the session
    fuse_session_destroy(session_);
  }
  std::free(buffer_.mem);
}

void FuseChannel::read_requests() {
  for (int i = 0; i < kRequestsAtOnce;) {
    int count = fuse_session_receive_buf(session_, &buffer_);
    auto waited = Clock::now() - answered_;
    if (count == -EAGAIN && soon_ones_ >= kRowOfSoonOnes && waited < kSoon) continue;
    if (count == -EAGAIN || count == -EINTR) return;
    soon_ones_ = waited < kSoon ? std::min(soon_ones_ + 1, kRowOfSoonOnes) : 0;
    ++i;
    if (count <= 0 || fuse_session_exited(session_) != 0) {
      loop_.unwatch(device_.get());
      auto tell = on_end_;
      tell();
      return;
    }
    fuse_session_process_buf(session_, &buffer_);
    answered_ = Clock::now();
  }
}

}  // namespace gestalt
