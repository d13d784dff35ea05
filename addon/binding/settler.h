// Promises that engine threads settle.
#pragma once
#include <napi.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace dsjs::binding {

// Carries the ends of works to the JavaScript thread. Keeps the process alive exactly while a
// promise is pending. Threads keep it by shared_ptr, so that it may outlive the object that waits.
class Settler : public std::enable_shared_from_this<Settler> {
 public:
  using Done = std::function<void(std::exception_ptr)>;

  static std::shared_ptr<Settler> create(Napi::Env env);
  Settler(const Settler&) = delete;
  Settler& operator=(const Settler&) = delete;

  // A promise that settles when the `done` given to `start` is called, on any thread. When `start`
  // throws there is no promise.
  Napi::Value promise(Napi::Env env, const std::function<void(Done)>& start);

  // No more promises; what is pending still settles.
  void close();
  // The environment is going down: nothing settles any more.
  void abandon();

 private:
  struct Message {
    std::shared_ptr<Settler> settler;
    uint64_t ticket;
    std::exception_ptr error;
  };
  static void deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Message* message);
  using Channel = Napi::TypedThreadSafeFunction<std::nullptr_t, Message, deliver>;

  Settler() = default;
  void post(uint64_t ticket, std::exception_ptr error);
  void settle(Napi::Env env, uint64_t ticket, std::exception_ptr error);
  void release_when_done();

  std::mutex mutex_;  // guards channel_ and open_ against threads that post
  Channel channel_;
  bool open_ = true;
  bool closing_ = false;
  uint64_t next_ticket_ = 1;
  std::unordered_map<uint64_t, Napi::Promise::Deferred> pending_;
};

}  // namespace dsjs::binding
