// Vectorisable exp and log in float, and the table of thread counts. Plain C++17: no header of Python or PyTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#ifdef _WIN32
#define BPKD_API extern "C" __declspec(dllexport)
#else
#define BPKD_API extern "C" __attribute__((visibility("default")))
#endif

#if defined(__linux__) && defined(__x86_64__) && defined(__GLIBC__)
// glibc 2.29 gave log another version (errno apart it computes the same): the old one lets a wheel run on older systems too.
__asm__(".symver log, log@GLIBC_2.2.5");
#endif

namespace bpkd {

constexpr float kRound = 12583039.f;  // 1.5 * 2^23 + 127

// exp(x) for x <= 0, as 2^n 2^r: n is the nearest whole number to x / ln 2 (adding kRound rounds, and leaves the exponent of 2^n
// in the low bits), r the rest, 2^r a polynomial fitted on [-1/2, 1/2]; relative error below 2e-7 for the values that count. Below -87 it
// stays at 1e-38, which no sum that holds a 1 can tell from the true value. NaN stays NaN.
static inline float exp_below(float x) {
  constexpr float kPerLog = 1.44269504f;
  x = x < -87.f ? -87.f : x;  // this order keeps NaN
  const float t = x * kPerLog + kRound, n = t - kRound, r = x * kPerLog - n;
  float p = 1.3264728115e-3f;
  p = p * r + 9.6715127142e-3f;
  p = p * r + 5.5507337400e-2f;
  p = p * r + 2.4022242084e-1f;
  p = p * r + 6.9314697760e-1f;
  p = p * r + 1.f;
  uint32_t bits;
  std::memcpy(&bits, &t, 4);
  bits <<= 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

// As many floats as a register holds, as one value. Clang and GCC compute with it element by element.
#if defined(__AVX512F__)
constexpr int64_t kWide = 16;
#elif defined(__AVX__)
constexpr int64_t kWide = 8;
#else
constexpr int64_t kWide = 4;
#endif
typedef float Wide __attribute__((vector_size(4 * kWide)));
typedef int32_t WideInt __attribute__((vector_size(4 * kWide)));

static inline Wide all(float x) { return Wide{} + x; }

static inline Wide load(const float* x) {
  Wide v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

static inline void store(float* x, Wide v) { std::memcpy(x, &v, sizeof v); }

// The first `lanes` floats of x, then `fill`.
static inline Wide load(const float* x, int64_t lanes, float fill) {
  if (lanes == kWide) return load(x);
  Wide v = all(fill);
  std::memcpy(&v, x, 4 * lanes);
  return v;
}

static inline void store(float* x, int64_t lanes, Wide v) {
  if (lanes == kWide) return store(x, v);
  std::memcpy(x, &v, 4 * lanes);
}

// The larger of both; b where a is NaN.
static inline Wide larger(Wide a, Wide b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// 2^x for x <= 0, with exp_below's polynomial; below -125 it stays at 2^-125. NaN stays NaN.
static inline Wide exp2_below(Wide x) {
  x = larger(all(-125.f), x);  // this order keeps NaN
#ifdef __AVX512F__
  const Wide n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Wide t = x + kRound, n = t - kRound;
#endif
  const Wide r = x - n;
  Wide p = all(1.3264728115e-3f);
  p = p * r + 9.6715127142e-3f;
  p = p * r + 5.5507337400e-2f;
  p = p * r + 2.4022242084e-1f;
  p = p * r + 6.9314697760e-1f;
  p = p * r + 1.f;
#ifdef __AVX512F__
  return _mm512_scalef_ps(p, n);
#else
  WideInt bits;
  std::memcpy(&bits, &t, sizeof bits);
  bits <<= 23;
  Wide power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
#endif
}

// log(x) for normal x > 0, close to correctly rounded also around 1 (Cephes' coefficients). NaN and infinity give NaN.
static inline float log_above(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  int32_t e = (bits >> 23) - 126;
  bits = (bits & 0x007fffff) | 0x3f000000;
  float m;  // in [0.5, 1)
  std::memcpy(&m, &bits, 4);
  const bool low = m < 0.707106781f;
  e -= low ? 1 : 0;
  const float r = (low ? m + m : m) - 1.f, z = r * r, n = static_cast<float>(e);
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  p = p * r * z - 2.12194440e-4f * n - 0.5f * z;
  return r + p + 0.693359375f * n + (x - x);  // the last term keeps NaN
}

}  // namespace bpkd
