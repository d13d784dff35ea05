#include "settler.h"

#include <utility>

#include "util.h"

namespace dsjs::binding {

std::shared_ptr<Settler> Settler::create(Napi::Env env) {
  auto settler = std::shared_ptr<Settler>(new Settler);
  settler->channel_ =
      Channel::New(env, "deepspeed-js works", /*maxQueueSize=*/0, /*initialThreadCount=*/1);
  settler->channel_.Unref(env);
  return settler;
}

Napi::Value Settler::promise(Napi::Env env, const std::function<void(Done)>& start) {
  if (closing_) throw EngineError("DISPOSED", "the engine was disposed");
  const uint64_t ticket = next_ticket_++;
  start(
      [self = shared_from_this(), ticket](std::exception_ptr error) { self->post(ticket, error); });
  // Only now that nothing can throw: a promise that is never settled is never collected. The end of
  // the work, if it was posted already, is delivered after JavaScript has returned.
  const auto deferred = Napi::Promise::Deferred::New(env);
  pending_.emplace(ticket, deferred);
  if (pending_.size() == 1) channel_.Ref(env);
  return deferred.Promise();
}

void Settler::post(uint64_t ticket, std::exception_ptr error) {
  auto* message = new Message{shared_from_this(), ticket, error};
  std::lock_guard lock(mutex_);
  if (!open_ || channel_.NonBlockingCall(message) != napi_ok) delete message;
}

// A null environment means that the runtime is going down and only the message is to be freed.
void Settler::deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Message* message) {
  const std::unique_ptr<Message> owned(message);
  if (env != nullptr) owned->settler->settle(env, owned->ticket, owned->error);
}

void Settler::settle(Napi::Env env, uint64_t ticket, std::exception_ptr error) {
  const Napi::HandleScope scope(env);
  const auto found = pending_.find(ticket);
  if (found == pending_.end()) return;
  const Napi::Promise::Deferred deferred = found->second;
  pending_.erase(found);
  if (pending_.empty()) channel_.Unref(env);
  if (error)
    deferred.Reject(to_js_error(env, error).Value());
  else
    deferred.Resolve(env.Undefined());
  if (closing_) release_when_done();
}

void Settler::release_when_done() {
  if (!pending_.empty()) return;
  std::lock_guard lock(mutex_);
  if (std::exchange(open_, false)) channel_.Release();
}

void Settler::close() {
  closing_ = true;
  release_when_done();
}

void Settler::abandon() {
  closing_ = true;
  std::lock_guard lock(mutex_);
  open_ = false;
}

}  // namespace dsjs::binding
