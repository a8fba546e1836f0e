// Vectorisable exp and log in float, and the table of thread counts. Plain C++17: no header of Python or PyTorch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _WIN32
#define BPKD_API extern "C" __declspec(dllexport)
#else
#define BPKD_API extern "C" __attribute__((visibility("default")))
#endif

namespace bpkd {

// exp(x) for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' coefficients), relative error below 2e-7. Below -87
// it stays at 1e-38, which no sum that holds a 1 can tell from the true value. NaN stays NaN.
static inline float exp_below(float x) {
  x = std::max(x, -87.f);  // this order keeps NaN
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const int32_t bits = static_cast<int32_t>(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
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
