#include "daemon/leader_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace gestalt {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// Nodes that are in the single view, and views that come and go. Keeps who is told to tell.
class LeaderViews : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root's connections are taken";
    std::filesystem::remove(path_);
    auto listening = view_.listen(path_);
    ASSERT_TRUE(listening) << listening.error().text();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::shared_ptr<Connection> open_view() {
    LocalSocket socket(context_);
    socket.connect({path_});
    auto connection = make_connection(std::move(socket), "leader");
    connection->start([](const wire::Message&) {}, [](const Error&) {});
    wire::Message hello;
    hello.mutable_view_hello()->set_uid(0);
    EXPECT_TRUE(connection->send(hello));
    run();
    return connection;
  }
  void run() {
    context_.restart();
    context_.run_for(std::chrono::milliseconds(50));
  }
  // Since the last call.
  std::vector<std::string> told() { return std::exchange(told_, {}); }

  const std::string path_ =
      std::filesystem::temp_directory_path() / ("leader-view-" + std::to_string(::getpid()));
  asio::io_context context_;
  std::vector<std::string> in_view_ = {"leader"};
  std::vector<std::string> told_;
  LeaderView view_{
      context_,
      1,
      {.nodes =
           [this] {
             std::vector<wire::ViewNode> nodes(in_view_.size());
             for (std::size_t i = 0; i < nodes.size(); ++i) nodes[i].set_name(in_view_[i]);
             return nodes;
           },
       .send =
           [this](const std::string& node, const wire::Message& message) {
             bool more = message.view_subscribe().interval_seconds() > 0;
             told_.push_back(node + (more ? "" : " stops"));
           },
       .ask = [](std::string, wire::Message, Clock::duration) -> Awaitable<Result<wire::Message>> {
         co_return fail(ErrorCode::kUnavailable, "nobody answers here");
       },
       .deputies = [] { return std::set<std::uint32_t>{}; }}};
};

TEST_F(LeaderViews, EachViewIsToldEverything) {
  in_view_ = {"leader", "a", "b"};
  view_.nodes_changed();
  EXPECT_THAT(told(), IsEmpty());  // nobody looks
  auto first = open_view();
  EXPECT_THAT(told(), UnorderedElementsAre("a", "b"));
  auto second = open_view();
  EXPECT_THAT(told(), UnorderedElementsAre("a", "b"));
  first->close({ErrorCode::kUnavailable, "enough", {}});
  run();
  EXPECT_THAT(told(), IsEmpty());
  second->close({ErrorCode::kUnavailable, "enough", {}});
  run();
  EXPECT_THAT(told(), ElementsAre("leader stops", "a stops", "b stops"));
}

// A restarted leader: its nodes and views come back in any order.
TEST_F(LeaderViews, ANodeWhoseHelloCameFirstTellsToo) {
  view_.node_connected("a");  // in the view from its first heartbeat on
  auto connection = open_view();
  EXPECT_THAT(told(), IsEmpty());
  in_view_ = {"leader", "a"};
  view_.nodes_changed();
  EXPECT_THAT(told(), ElementsAre("a"));
  view_.nodes_changed();
  EXPECT_THAT(told(), IsEmpty());
}

TEST_F(LeaderViews, ANodeThatComesBackIsAskedAgainOnce) {
  auto connection = open_view();
  view_.node_connected("a");
  EXPECT_THAT(told(), ElementsAre("a"));
  in_view_ = {"leader", "a"};
  view_.nodes_changed();
  EXPECT_THAT(told(), IsEmpty());
  view_.node_connected("a");
  EXPECT_THAT(told(), ElementsAre("a"));
  in_view_ = {"leader"};
  view_.node_gone("a");
  in_view_ = {"leader", "a"};
  view_.nodes_changed();
  EXPECT_THAT(told(), ElementsAre("a"));
}

}  // namespace
}  // namespace gestalt
