// Choice among the tables that `*_simd.cc` files export, one of the same name in each ISA's
// namespace.
#pragma once
#include <string>

#include "core/error.h"
#include "core/isa.h"

// Declares the tables `name` of type Table for every instruction set (at namespace scope dsjs).
#define DSJS_DECLARE_ISA_TABLES(Table, name) \
  namespace portable {                       \
  extern const Table name;                   \
  }                                          \
  namespace neon {                           \
  extern const Table name;                   \
  }                                          \
  namespace avx2 {                           \
  extern const Table name;                   \
  }                                          \
  namespace avx512 {                         \
  extern const Table name;                   \
  }

// The table `name` of `isa`.
#define DSJS_ISA_TABLE(isa, name) DSJS_OWN_ISA_TABLE(::dsjs::own_isa(isa), name)

// Only the sets compiled for this processor family are referenced.
#if defined(__x86_64__)
#define DSJS_OWN_ISA_TABLE(isa, name)                 \
  ((isa) == ::dsjs::Isa::kAmx        ? avx512::name   \
   : (isa) == ::dsjs::Isa::kAvx512   ? avx512::name   \
   : (isa) == ::dsjs::Isa::kAvx2     ? avx2::name     \
   : (isa) == ::dsjs::Isa::kPortable ? portable::name \
                                     : (::dsjs::throw_isa_missing(isa), portable::name))
#elif defined(__aarch64__)
#define DSJS_OWN_ISA_TABLE(isa, name)                 \
  ((isa) == ::dsjs::Isa::kNeon       ? neon::name     \
   : (isa) == ::dsjs::Isa::kPortable ? portable::name \
                                     : (::dsjs::throw_isa_missing(isa), portable::name))
#else
#define DSJS_OWN_ISA_TABLE(isa, name)               \
  ((isa) == ::dsjs::Isa::kPortable ? portable::name \
                                   : (::dsjs::throw_isa_missing(isa), portable::name))
#endif

namespace dsjs {

[[noreturn]] inline void throw_isa_missing(Isa isa) {
  throw EngineError("INVALID_ARGUMENT",
                    std::string("no kernels for ") + isa_name(isa) + " in this build");
}

}  // namespace dsjs
