#include "run_control.h"

#include <unistd.h>

#include <memory>

#include "comm/mpi_run.h"
#include "comm/run_control.h"
#include "comm/run_link.h"
#include "util.h"

namespace dsjs::binding {
namespace {

std::vector<int> fds_arg(const Napi::Value& value, const char* name) {
  if (!value.IsArray())
    throw EngineError("INVALID_ARGUMENT",
                      std::string(name) + " must be an array of file descriptors");
  const Napi::Array list = value.As<Napi::Array>();
  std::vector<int> fds;
  for (uint32_t index = 0; index < list.Length(); ++index)
    fds.push_back(integer_arg<int>(list.Get(index), name));
  return fds;
}

// createRunFds(worldSize)
Napi::Value create_fds(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const RunFds fds = create_run_fds(integer_arg<int>(info[0], "worldSize"));
    Napi::Array arenas = Napi::Array::New(env, fds.arena_fds.size());
    for (uint32_t index = 0; index < fds.arena_fds.size(); ++index)
      arenas[index] = Napi::Number::New(env, fds.arena_fds[index]);
    Napi::Object result = Napi::Object::New(env);
    result["controlFd"] = Napi::Number::New(env, fds.control_fd);
    result["arenaFds"] = arenas;
    return result;
  });
}

// closeFds(fds)
void close_fds(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    for (int fd : fds_arg(info[0], "fds")) close(fd);
  });
}

// The launcher's view of the control page.
class RunControlHandle final : public Napi::ObjectWrap<RunControlHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "RunControl",
                       {InstanceMethod<&RunControlHandle::ranks>("ranks"),
                        InstanceMethod<&RunControlHandle::abort>("abort"),
                        InstanceMethod<&RunControlHandle::dispose>("dispose")});
  }

  // new RunControl(controlFd, worldSize)
  explicit RunControlHandle(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<RunControlHandle>(info) {
    guarded(info.Env(), [&] {
      control_ = std::make_unique<RunControl>(integer_arg<int>(info[0], "controlFd"),
                                              integer_arg<int>(info[1], "worldSize"));
    });
  }

 private:
  RunControl& open() const {
    if (!control_) throw EngineError("DISPOSED", "this run control has been disposed");
    return *control_;
  }

  Napi::Value ranks(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&] {
      const auto states = open().ranks();
      Napi::Array list = Napi::Array::New(env, states.size());
      for (uint32_t rank = 0; rank < states.size(); ++rank) {
        Napi::Object entry = Napi::Object::New(env);
        entry["rank"] = Napi::Number::New(env, rank);
        entry["pid"] = Napi::Number::New(env, states[rank].pid);
        entry["joined"] = Napi::Boolean::New(env, states[rank].joined);
        entry["left"] = Napi::Boolean::New(env, states[rank].left);
        entry["heartbeatAgeMs"] = Napi::Number::New(env, states[rank].heartbeat_age_ms);
        list[rank] = entry;
      }
      return list;
    });
  }

  // abort(rank, message)
  void abort(const Napi::CallbackInfo& info) {
    guarded(info.Env(),
            [&] { open().abort(integer_arg<int>(info[0], "rank", -1), info[1].ToString()); });
  }

  void dispose(const Napi::CallbackInfo&) { control_.reset(); }

  std::unique_ptr<RunControl> control_;
};

// openRunControl(controlFd, worldSize)
Napi::Value open_run_control(const Napi::CallbackInfo& info) {
  return constructor(info.Env(), "RunControl").New({info[0], info[1]});
}

// joinRun(options)
void join(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    if (!info[0].IsObject())
      throw EngineError("INVALID_ARGUMENT", "options must be an object", "joinRun");
    const auto options = info[0].As<Napi::Object>();
    const RunOptions run = run_options(options);
    join_run(run.rank, run.control_fd, run.arena_fds, integer_field<int>(options, "parentPid"));
  });
}

// leaveRun(reason)
void leave(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    leave_run(info[0].ToString());
    leave_mpi_run(info[0].ToString());
  });
}

// openLink(options)
void link(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    if (!info[0].IsObject())
      throw EngineError("INVALID_ARGUMENT", "options must be an object", "openLink");
    const auto options = info[0].As<Napi::Object>();
    open_link({string_field(options, "address"), integer_field<int>(options, "port"),
               string_field(options, "hello"), number_field(options, "patienceMs")});
  });
}

// tellLauncher(line)
void tell(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] { tell_launcher(info[0].ToString()); });
}

}  // namespace

RunOptions run_options(Napi::Object options) {
  RunOptions run{integer_field<int>(options, "rank"), integer_field<int>(options, "controlFd"),
                 fds_arg(options.Get("arenaFds"), "arenaFds")};
  if (run.arena_fds.size() != size_field(options, "worldSize"))
    throw EngineError("INVALID_ARGUMENT", std::to_string(run.arena_fds.size()) + " arenas for " +
                                              std::to_string(size_field(options, "worldSize")) +
                                              " ranks");
  return run;
}

void register_run_control(Napi::Env env, Napi::Object exports) {
  keep_constructor(env, "RunControl", RunControlHandle::define(env));
  exports["createRunFds"] = Napi::Function::New(env, create_fds, "createRunFds");
  exports["openRunControl"] = Napi::Function::New(env, open_run_control, "openRunControl");
  exports["closeFds"] = Napi::Function::New(env, close_fds, "closeFds");
  exports["openLink"] = Napi::Function::New(env, link, "openLink");
  exports["tellLauncher"] = Napi::Function::New(env, tell, "tellLauncher");
  exports["joinRun"] = Napi::Function::New(env, join, "joinRun");
  exports["leaveRun"] = Napi::Function::New(env, leave, "leaveRun");
}

}  // namespace dsjs::binding
