// CUDA's vector types, with its alignments.
#pragma once

namespace cuda {

#define VECTOR_TYPES(T, NAME)                                                      \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                               \
  struct NAME##3 { T x, y, z; };                                                   \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; };    \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                       \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }               \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR_TYPES(float, float)
VECTOR_TYPES(double, double)
VECTOR_TYPES(int, int)
VECTOR_TYPES(unsigned, uint)
VECTOR_TYPES(long long, longlong)
VECTOR_TYPES(unsigned long long, ulonglong)
VECTOR_TYPES(short, short)
VECTOR_TYPES(unsigned short, ushort)
VECTOR_TYPES(signed char, char)
VECTOR_TYPES(unsigned char, uchar)
#undef VECTOR_TYPES

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

}  // namespace cuda
