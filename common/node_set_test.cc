#include "common/node_set.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace gestalt {
namespace {

using Names = std::vector<std::string>;

Names expand(std::string_view text) {
  auto names = expand_node_set(text);
  EXPECT_TRUE(names) << text << ": " << names.error().text();
  return names.value_or(Names{});
}

TEST(NodeName, Rule) {
  for (const char* name : {"n", "n1", "1", "a-b", "leader"}) EXPECT_TRUE(valid_node_name(name));
  for (const char* name : {"", "-", "-a", "a-", "A", "a.b", "a_b", "a/b", "..", "a b", "n\n"})
    EXPECT_FALSE(valid_node_name(name)) << name;
  EXPECT_TRUE(valid_node_name(std::string(63, 'a')));
  EXPECT_FALSE(valid_node_name(std::string(64, 'a')));
  EXPECT_FALSE(valid_node_name(std::string_view("a\0b", 3)));
  EXPECT_FALSE(check_node_name("A").error().remedy.empty());
}

TEST(NodeSet, Expands) {
  EXPECT_EQ(expand("login"), (Names{"login"}));
  EXPECT_EQ(expand("n[001-003,070],login"), (Names{"n001", "n002", "n003", "n070", "login"}));
  EXPECT_EQ(expand("n[9-11]"), (Names{"n9", "n10", "n11"}));
  EXPECT_EQ(expand("n[0-2]"), (Names{"n0", "n1", "n2"}));
  EXPECT_EQ(expand("n[098-102]"), (Names{"n098", "n099", "n100", "n101", "n102"}));
  EXPECT_EQ(expand("r[1-2]n[1-2]"), (Names{"r1n1", "r1n2", "r2n1", "r2n2"}));
  EXPECT_EQ(expand("n[1]-ib"), (Names{"n1-ib"}));
  EXPECT_EQ(expand("b,a,b,a[1,1]"), (Names{"b", "a", "a1"}));
}

TEST(NodeSet, RefusesNonsense) {
  for (const char* text : {"",
                           ",",
                           "a,",
                           ",a",
                           "n[",
                           "n]",
                           "n[]",
                           "n[1",
                           "n[1-]",
                           "n[-1]",
                           "n[2-1]",
                           "n[a]",
                           "n[1,]",
                           "n[01-2]",
                           "n[1-02]",
                           "n[01-100]",
                           "n[[1]]",
                           "n[1 ]",
                           "n[1-2-3]",
                           "N1",
                           "n[0000000001]",
                           "n[1-4294967295]",
                           "n[1-999999999]",
                           "-[1-2]"})
    EXPECT_FALSE(expand_node_set(text)) << text;
}

TEST(NodeSet, Limit) {
  EXPECT_EQ(expand("n[1-65536]").size(), kMaxNodeSetNames);
  EXPECT_FALSE(expand_node_set("n[1-65537]"));
  EXPECT_FALSE(expand_node_set("n[1-65536],m"));
  EXPECT_EQ(expand("a[1-256]b[1-256]").size(), kMaxNodeSetNames);
  EXPECT_FALSE(expand_node_set("a[1-256]b[1-257]"));
  EXPECT_FALSE(expand_node_set("a[1-9]b[1-9]c[1-9]d[1-9]e[1-9]f[1-9]g[1-9]h[1-9]"));
  EXPECT_FALSE(expand_node_set("a[1-40000],b[1-40000]"));
  EXPECT_FALSE(expand_node_set(std::string(64, 'a') + "[1-65536]"));
}

TEST(NodeSet, Folds) {
  EXPECT_EQ(fold_node_set({}), "");
  EXPECT_EQ(fold_node_set({"login"}), "login");
  EXPECT_EQ(fold_node_set({"n2", "n1", "n1"}), "n[1-2]");
  EXPECT_EQ(fold_node_set({"n003", "n001", "login", "n002", "n070"}), "login,n[001-003,070]");
  EXPECT_EQ(fold_node_set({"n9", "n10"}), "n[9-10]");
  EXPECT_EQ(fold_node_set({"n098", "n099", "n100", "n101"}), "n[098-101]");
  EXPECT_EQ(fold_node_set({"n08", "n8", "n10"}), "n[08,10],n8");
  EXPECT_EQ(fold_node_set({"7"}), "7");
}

TEST(NodeSet, FoldExpandsToTheSame) {
  for (Names names : {Names{"n1", "n01", "n001", "n100", "n10", "n011"}, Names{"a", "b", "a1"},
                      Names{"n0", "n00", "n000"}, Names{"n999999999", "n1999999999", "12", "012"},
                      Names{"r1n1", "r1n2", "r2n1"}, Names{"0999999999", "1000000000"}}) {
    auto again = expand(fold_node_set(names));
    std::sort(again.begin(), again.end());
    std::sort(names.begin(), names.end());
    EXPECT_EQ(again, names) << fold_node_set(names);
  }
}

}  // namespace
}  // namespace gestalt
