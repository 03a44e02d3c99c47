// CUDA's functions of one thread that C++ lacks. Functions with _rn round to nearest and are never fused; the
// approximate ones (__expf, ...) are the exact ones here.
#pragma once

namespace cuda {

// ---- Bits
template <class To, class From>
To reinterpret_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return reinterpret_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return reinterpret_bits<unsigned>(x); }
inline float __int_as_float(int x) { return reinterpret_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return reinterpret_bits<float>(x); }
inline long long __double_as_longlong(double x) { return reinterpret_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return reinterpret_bits<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(__double_as_longlong(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(__double_as_longlong(x)); }
inline double __hiloint2double(int high, int low) {
  const unsigned long long upper = static_cast<unsigned>(high);
  return __longlong_as_double(static_cast<long long>(upper << 32 | static_cast<unsigned>(low)));
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int bit = 0; bit < 32; bit++) r |= (x >> bit & 1u) << (31 - bit);
  return r;
}
inline int __mulhi(int x, int y) { return static_cast<int>(static_cast<long long>(x) * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
__extension__ typedef __int128 Wide;
__extension__ typedef unsigned __int128 UnsignedWide;
inline long long __mul64hi(long long x, long long y) { return static_cast<long long>(static_cast<Wide>(x) * y >> 64); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<UnsignedWide>(x) * y >> 64);
}

// ---- Loads and stores with a hint
#define LOAD(NAME) template <class T> T NAME(const T* place) { return *place; }
#define STORE(NAME) template <class T> void NAME(T* place, T value) { *place = value; }
LOAD(__ldg) LOAD(__ldca) LOAD(__ldcg) LOAD(__ldcs) LOAD(__ldlu) LOAD(__ldcv)
STORE(__stwb) STORE(__stcg) STORE(__stcs) STORE(__stwt)
#undef LOAD
#undef STORE

// ---- Arithmetic rounded to nearest
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return ::sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / ::sqrt(static_cast<double>(x))); }
inline float __fmaf_rn(float x, float y, float z) { return ::fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return ::sqrt(x); }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __fma_rn(double x, double y, double z) { return ::fma(x, y, z); }

// ---- Conversions. What lies outside the range gives the nearest value in it; not a number gives 0, or the lowest bit
// pattern if a side has 64 bits (PTX ISA, cvt).
template <class To, class From>
To convert(From x) {
  constexpr bool wide = sizeof(From) == 8 || sizeof(To) == 8;
  constexpr To highest = std::numeric_limits<To>::max(), lowest = std::numeric_limits<To>::min();
  if (x != x) return wide ? static_cast<To>(1ull << (8 * sizeof(To) - 1)) : static_cast<To>(0);
  if (x >= static_cast<From>(highest)) return highest;
  if (x <= static_cast<From>(lowest)) return lowest;
  return static_cast<To>(x);
}
#define CONVERSIONS(FROM, T, TO, U, SUFFIX)                                                  \
  inline U __##FROM##2##TO##_rn(T x) { return convert<U>(::rint##SUFFIX(x)); }               \
  inline U __##FROM##2##TO##_rz(T x) { return convert<U>(::trunc##SUFFIX(x)); }              \
  inline U __##FROM##2##TO##_rd(T x) { return convert<U>(::floor##SUFFIX(x)); }              \
  inline U __##FROM##2##TO##_ru(T x) { return convert<U>(::ceil##SUFFIX(x)); }
CONVERSIONS(float, float, int, int, f)
CONVERSIONS(float, float, uint, unsigned, f)
CONVERSIONS(float, float, ll, long long, f)
CONVERSIONS(float, float, ull, unsigned long long, f)
CONVERSIONS(double, double, int, int, )
CONVERSIONS(double, double, uint, unsigned, )
CONVERSIONS(double, double, ll, long long, )
CONVERSIONS(double, double, ull, unsigned long long, )
#undef CONVERSIONS
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

// ---- Elementary functions
inline float rsqrtf(float x) { return __frsqrt_rn(x); }
inline float rsqrt(float x) { return __frsqrt_rn(x); }
inline double rsqrt(double x) { return 1.0 / ::sqrt(x); }
inline float rcbrtf(float x) { return 1.0f / ::cbrtf(x); }
inline double rcbrt(double x) { return 1.0 / ::cbrt(x); }

// sin(pi x), cos(pi x): x is reduced exactly to a quarter turn either side of a multiple of 1/2.
inline void sincospi(double x, double* sine, double* cosine) {
  double half_turns = ::rint(2.0 * x);
  double angle = 3.14159265358979323846 * (x - 0.5 * half_turns);
  double s = ::sin(angle), c = ::cos(angle);
  int quadrant = static_cast<int>(static_cast<long long>(::fmod(half_turns, 4.0)) & 3);
  *sine = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  *cosine = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}
inline double sinpi(double x) { double s, c; sincospi(x, &s, &c); return s; }
inline double cospi(double x) { double s, c; sincospi(x, &s, &c); return c; }
inline float sinpif(float x) { return static_cast<float>(sinpi(static_cast<double>(x))); }
inline float cospif(float x) { return static_cast<float>(cospi(static_cast<double>(x))); }
inline float sinpi(float x) { return sinpif(x); }
inline float cospi(float x) { return cospif(x); }
inline void sincospif(float x, float* sine, float* cosine) { *sine = sinpif(x); *cosine = cospif(x); }
inline void sincospi(float x, float* sine, float* cosine) { sincospif(x, sine, cosine); }
inline void sincos(double x, double* sine, double* cosine) { *sine = ::sin(x); *cosine = ::cos(x); }
inline void sincosf(float x, float* sine, float* cosine) { *sine = ::sinf(x); *cosine = ::cosf(x); }
inline void sincos(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }

inline float __expf(float x) { return ::expf(x); }
inline float __logf(float x) { return ::logf(x); }
inline float __log2f(float x) { return ::log2f(x); }
inline float __powf(float x, float y) { return ::powf(x, y); }
inline float __sinf(float x) { return ::sinf(x); }
inline float __cosf(float x) { return ::cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; }  // not a number gives 0
inline float norm3df(float x, float y, float z) { return ::sqrtf(x * x + y * y + z * z); }
inline double norm3d(double x, double y, double z) { return ::sqrt(x * x + y * y + z * z); }

// min and max of the types that CUDA has them for; of floating-point numbers, the one that is a number.
#define MIN_AND_MAX(T)                             \
  inline T min(T x, T y) { return y < x ? y : x; } \
  inline T max(T x, T y) { return x < y ? y : x; }
MIN_AND_MAX(int)
MIN_AND_MAX(unsigned)
MIN_AND_MAX(long)
MIN_AND_MAX(unsigned long)
MIN_AND_MAX(long long)
MIN_AND_MAX(unsigned long long)
#undef MIN_AND_MAX
inline float min(float x, float y) { return ::fminf(x, y); }
inline float max(float x, float y) { return ::fmaxf(x, y); }
inline double min(double x, double y) { return ::fmin(x, y); }
inline double max(double x, double y) { return ::fmax(x, y); }

[[noreturn]] inline void __trap() { cuda_on_cpu::fail("__trap()"); }

}  // namespace cuda
