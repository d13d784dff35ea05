// Instruction sets: what is compiled in, what this processor has, and which one is in use.
//
// Files named `*_simd.cc` are compiled once for each instruction set (cmake/isa.cmake), each time
// in a namespace of its own and with that set's compiler flags. They export one constant table of
// functions; the choice among the tables is made here, at run time, so that one binary runs
// everywhere.
#pragma once
#include <string>
#include <vector>

namespace dsjs {

enum class Isa : int { kPortable, kNeon, kAvx2, kAvx512, kAmx, kCblas };

// "portable", "neon", "avx2" (with FMA and F16C), "avx512" (F, BW, DQ, VL), "amx" (avx512, with
// products of bf16 in tile registers; what has no kernels of its own for it runs as avx512),
// "cblas" (products by a library, gemm/cblas.h, where the build has one; the rest runs as the next
// set).
const char* isa_name(Isa isa);

// Compiled in and present in this processor, best first. Never empty: portable ends it.
const std::vector<Isa>& available_isas();

// The one in use: the best, unless the environment variable DEEPSPEED_JS_ISA, read once, names
// another. Throws EngineError INVALID_ARGUMENT, each time, when it names one that is not available.
Isa active_isa();

// The set that computes what the library of kCblas does not; any other set itself.
inline Isa own_isa(Isa isa) { return isa == Isa::kCblas ? available_isas()[1] : isa; }

// Names from the one in use downward: what info() reports, the first being the one that computes.
std::vector<std::string> usable_isa_names();

}  // namespace dsjs
