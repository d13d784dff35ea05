// Checks for the C++ tests: a failed one prints where and what, counts, and goes on.
// A test file is a plain main() that ends with `return dsjs::testing::summary();`.
#pragma once
#include <atomic>
#include <cstdio>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace dsjs::testing {

struct Tally {
  std::atomic<int> passed = 0;
  std::atomic<int> failed = 0;
};

inline Tally& tally() {
  static Tally counts;
  return counts;
}

inline bool check(bool ok, const char* file, int line, const std::string& what) {
  if (ok) {
    ++tally().passed;
  } else {
    ++tally().failed;
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what.c_str());
  }
  return ok;
}

// The exit code of main: 0 when every check held and there was at least one.
inline int summary() {
  std::printf("%d checks passed, %d failed\n", tally().passed.load(), tally().failed.load());
  return tally().failed == 0 && tally().passed > 0 ? 0 : 1;
}

struct NamedTest {
  const char* name;
  void (*run)();
};

// For files that take long where a processor is emulated: `argv` names the tests to run, all of
// them when it names none. What main returns.
inline int run_tests(int argc, char** argv, std::initializer_list<NamedTest> tests) {
  for (const NamedTest& test : tests) {
    bool named = argc < 2;
    for (int i = 1; i < argc; ++i) named = named || std::string(argv[i]) == test.name;
    if (named) test.run();
  }
  return summary();
}

}  // namespace dsjs::testing

#define CHECK(condition) ::dsjs::testing::check((condition), __FILE__, __LINE__, #condition)

// With more to say: CHECK_MESSAGE(a == b, "a = " + std::to_string(a)).
#define CHECK_MESSAGE(condition, message)                 \
  ::dsjs::testing::check((condition), __FILE__, __LINE__, \
                         std::string(#condition) + ": " + (message))

// The statement throws EngineError with this code.
#define CHECK_THROWS_CODE(statement, expected)                                           \
  do {                                                                                   \
    std::string thrown_code = "nothing";                                                 \
    try {                                                                                \
      statement;                                                                         \
    } catch (const ::dsjs::EngineError& error) {                                         \
      thrown_code = error.code();                                                        \
    }                                                                                    \
    ::dsjs::testing::check(                                                              \
        thrown_code == (expected), __FILE__, __LINE__,                                   \
        std::string(#statement) + " threw " + thrown_code + ", expected " + (expected)); \
  } while (false)
