// A loop that several threads may share, whoever's threads they are: the runtime's pool inside an
// operator, the engine's own elsewhere.
#pragma once
#include <cstddef>
#include <type_traits>

namespace dsjs {

class Parallel {
 public:
  virtual ~Parallel() = default;
  // How many calls can run at once, the caller's thread included. At least 1.
  virtual size_t threads() const = 0;
  // Calls fn(i) for i < count and returns when all have. They run in any order, also one after the
  // other on one thread, so a call must not wait for another. fn must not throw.
  template <class F>
  void run(size_t count, F&& fn) {
    using Fn = std::remove_reference_t<F>;
    if (count == 1) return fn(size_t{0});
    run_calls(
        count, [](void* f, size_t i) { (*static_cast<Fn*>(f))(i); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  virtual void run_calls(size_t count, void (*fn)(void*, size_t), void* user) = 0;
};

// The caller's thread alone.
class Serial : public Parallel {
 public:
  size_t threads() const override { return 1; }

 private:
  void run_calls(size_t count, void (*fn)(void*, size_t), void* user) override {
    for (size_t i = 0; i < count; ++i) fn(user, i);
  }
};

}  // namespace dsjs
