#include "core/isa.h"

#include <cstdlib>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(DSJS_HAS_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dsjs {
namespace {

#if defined(__x86_64__)
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 29));
}

// __builtin_cpu_supports also asks whether the system saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

#if defined(DSJS_HAS_AMX)
// The processor's tile registers are for a process that has asked for them; a system that does not
// know them, or cannot save them, refuses.
bool has_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl(2)
  unsigned eax, ebx, ecx, edx;
  return has_avx512() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kBf16) &&
         (edx & kTile) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found;
#if defined(DSJS_HAS_CBLAS)
  found.push_back(Isa::kCblas);
#endif
#if defined(DSJS_HAS_AMX)
  if (has_amx()) found.push_back(Isa::kAmx);
#endif
#if defined(__x86_64__)
  if (has_avx512()) found.push_back(Isa::kAvx512);
  if (has_avx2()) found.push_back(Isa::kAvx2);
#elif defined(__aarch64__)
  found.push_back(Isa::kNeon);
#endif
  found.push_back(Isa::kPortable);
  return found;
}

std::string wanted_name() {
  const char* name = std::getenv("DEEPSPEED_JS_ISA");
  return name ? name : "";
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
    case Isa::kCblas:
      return "cblas";
  }
  return "unknown";
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa active_isa() {
  static const std::string wanted = wanted_name();
  if (wanted.empty()) return available_isas().front();
  std::string names;
  for (Isa isa : available_isas()) {
    if (wanted == isa_name(isa)) return isa;
    names.append(names.empty() ? "" : ", ").append(isa_name(isa));
  }
  throw EngineError("INVALID_ARGUMENT", "DEEPSPEED_JS_ISA is \"" + wanted +
                                            "\", which is not available here; available: " + names);
}

std::vector<std::string> usable_isa_names() {
  std::vector<std::string> names;
  const Isa active = active_isa();
  bool reached = false;
  for (Isa isa : available_isas()) {
    reached = reached || isa == active;
    if (reached) names.push_back(isa_name(isa));
  }
  return names;
}

}  // namespace dsjs
