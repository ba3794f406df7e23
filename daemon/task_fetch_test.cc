#include "daemon/task_fetch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace gestalt {
namespace {

Result<wire::ViewFetched> fetch(const std::string& path, wire::ViewFetch::Kind kind,
                                std::uint32_t pid = static_cast<std::uint32_t>(::getpid())) {
  wire::ViewFetch request;
  request.set_pid(pid);
  request.set_path(path);
  request.set_kind(kind);
  return fetch_of_task("/proc", request);
}

TEST(TaskFetch, ReadsFilesLinksAndDirectories) {
  auto limits = fetch("limits", wire::ViewFetch::FILE);
  ASSERT_TRUE(limits) << limits.error().text();
  EXPECT_TRUE(limits->content().contains("Max open files"));
  auto self = fetch("exe", wire::ViewFetch::LINK);
  ASSERT_TRUE(self);
  EXPECT_EQ(self->content(), std::filesystem::read_symlink("/proc/self/exe").string());
  auto threads = fetch("task", wire::ViewFetch::DIRECTORY);
  ASSERT_TRUE(threads);
  ASSERT_EQ(threads->entries_size(), 1);
  EXPECT_EQ(threads->entries(0).name(), std::to_string(::getpid()));
  EXPECT_TRUE(fetch("task/" + std::to_string(::getpid()) + "/stat", wire::ViewFetch::FILE));
  EXPECT_TRUE(fetch("fd/0", wire::ViewFetch::LINK));
}

TEST(TaskFetch, LeadsNowhereElse) {
  for (const char* path : {"root/etc/passwd", "cwd/x", "../1/stat", "fd/../../1/stat",
                           "/etc/passwd", "mem", "task/1/mem", "pagemap", "exe", ""})
    EXPECT_FALSE(fetch(path, wire::ViewFetch::FILE)) << path;
  for (const char* path : {"root/etc", "cwd", "..", "fd/../../1"})
    EXPECT_FALSE(fetch(path, wire::ViewFetch::DIRECTORY)) << path;
  for (const char* path : {"root/proc/self/exe", "", "task/..", "../self"})
    EXPECT_FALSE(fetch(path, wire::ViewFetch::LINK)) << path;
  EXPECT_FALSE(fetch(std::string(5000, 'x'), wire::ViewFetch::FILE));
  EXPECT_FALSE(fetch(std::string("stat\0x", 6), wire::ViewFetch::FILE));
}

TEST(TaskFetch, WhatIsPrivateIsTheOwnersAndRoots) {
  if (::getuid() != 0) GTEST_SKIP() << "not root";
  auto as = [](const std::string& path, wire::ViewFetch::Kind kind, std::uint32_t uid) {
    wire::ViewFetch request;
    request.set_pid(static_cast<std::uint32_t>(::getpid()));
    request.set_path(path);
    request.set_kind(kind);
    request.set_uid(uid);
    auto fetched = fetch_of_task("/proc", request);
    return fetched ? ErrorCode::kInternal : fetched.error().code;
  };
  auto own_task = "task/" + std::to_string(::getpid());
  for (const auto& path : {std::string("environ"), std::string("maps"), own_task + "/environ"}) {
    EXPECT_EQ(as(path, wire::ViewFetch::FILE, 1000), ErrorCode::kPermission) << path;
    EXPECT_EQ(as(path, wire::ViewFetch::FILE, 0), ErrorCode::kInternal) << path;
  }
  EXPECT_EQ(as("fd", wire::ViewFetch::DIRECTORY, 1000), ErrorCode::kPermission);
  EXPECT_EQ(as("exe", wire::ViewFetch::LINK, 1000), ErrorCode::kPermission);
  EXPECT_EQ(as("fdinfo/0", wire::ViewFetch::FILE, 1000), ErrorCode::kPermission);
  EXPECT_EQ(as("limits", wire::ViewFetch::FILE, 1000), ErrorCode::kInternal);
  EXPECT_EQ(as(own_task + "/stat", wire::ViewFetch::FILE, 1000), ErrorCode::kInternal);
}

TEST(TaskFetch, ThoseWhoAreGoneAreGone) {
  auto missing = fetch("stat", wire::ViewFetch::FILE, 4'000'000);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kGone);
  EXPECT_EQ(fetch("fd/999", wire::ViewFetch::LINK).error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
