// Sets of labels in the window of each pixel as bit words, and which bits the pixels of a cell hold.
#pragma once

#include "numbers.h"
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

constexpr int kVoid = 255;         // labels are at most 254 here; 255 stands for "ignored"

struct Task {
  float* dense;        // map [classes, h, w] of the image, zeroed; null: entries are listed instead
  const void* labels;  // of the image
  int label_bytes;     // 1: uint8, 4: int32, 8: int64
  int64_t height, width, h, w, row0, row1;  // cells [row0, row1)
  int classes;
  int64_t ignore;
  int side;
  bool transparent;
};

inline int64_t begin_of(int64_t i, int64_t n, int64_t cells) { return i * n / cells; }
inline int64_t end_of(int64_t i, int64_t n, int64_t cells) { return ((i + 1) * n + cells - 1) / cells; }

// `count` labels, all of 0..255 if `small`, as bytes, 255 where ignored. False: one is out of range. Small ones are compared as
// bytes, many at once.
template <typename L>
bool read_labels(const Task& t, const L* in, int64_t count, bool small, uint8_t* out) {
  if (small) {
    const bool known = t.ignore >= 0 && t.ignore < 256;
    const uint8_t ignore = known ? static_cast<uint8_t>(t.ignore) : 0, classes = static_cast<uint8_t>(t.classes);
    uint8_t bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t v = out[i], skip = static_cast<uint8_t>(known & (v == ignore));
      bad |= static_cast<uint8_t>(!skip & (v >= classes));
      out[i] = skip ? uint8_t(kVoid) : v;
    }
    return !bad;
  }
  const int64_t classes = t.classes, ignore = t.ignore;
  int bad = 0;
#pragma omp simd reduction(| : bad)
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = static_cast<int64_t>(in[i]);
    const bool skip = v == ignore;
    bad |= static_cast<int>(!skip) & static_cast<int>(v < 0 || v >= classes);
    out[i] = skip ? uint8_t(kVoid) : static_cast<uint8_t>(in[i]);
  }
  return !bad;
}

// Labels of pixel rows [y0, y1) as bytes, 255 where ignored; presence of each byte. False: a label is out of range.
template <typename L>
bool read_rows(const Task& t, int64_t y0, int64_t y1, uint8_t* out, uint8_t* seen) {
  constexpr int64_t kPart = 1024;  // labels
  const L* in = static_cast<const L*>(t.labels) + y0 * t.width;
  const int64_t count = (y1 - y0) * t.width;
  bool good = true;
  for (int64_t from = 0; from < count; from += kPart) {
    const int64_t part = std::min(kPart, count - from);
    const L* own = in + from;
    uint8_t* bytes = out + from;
    L held = 0;
#pragma omp simd reduction(| : held)
    for (int64_t i = 0; i < part; ++i) {
      held |= own[i];
      bytes[i] = static_cast<uint8_t>(own[i]);
    }
    good &= read_labels(t, own, part, held >= 0 && held < 256, bytes);
  }
  // Neighbours are alike: a word of eight equal bytes is looked at once.
  int64_t i = 0;
  uint64_t last = 0;
  bool any = false;
  for (; i + 8 <= count; i += 8) {
    uint64_t word;
    std::memcpy(&word, out + i, 8);
    if (any && word == last) continue;
    last = word;
    any = true;
    for (int b = 0; b < 8; ++b) seen[(word >> (8 * b)) & 255] = 1;
  }
  for (; i < count; ++i) seen[out[i]] = 1;
  return good;
}

// OR over `side` neighbours by doubling, in place, of `lines` lines; the last `side - 1` lines (elements) are lost.
template <typename Word>
void doubled_columns(Word* x, int64_t width, int side) {
  int64_t n = width + side - 1;
  int step = 1;
  for (; 2 * step <= side; step *= 2) {
    n -= step;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] |= x[i + step];
  }
  const int rest = side - step;
  if (rest)
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) x[i] |= x[i + rest];
}

template <typename Word>
void doubled_rows(Word* x, int64_t height, int64_t width, int side) {
  constexpr int64_t kStrip = 8192 / sizeof(Word) / 8;
  for (int64_t x0 = 0; x0 < width; x0 += kStrip) {
    const int64_t n = std::min(kStrip, width - x0);
    int64_t lines = height + side - 1;
    int step = 1;
    auto combine = [&](int64_t count, int distance) {
      for (int64_t y = 0; y < count; ++y) {
        Word* a = x + y * width + x0;
        const Word* b = a + distance * width;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) a[i] |= b[i];
      }
    };
    for (; 2 * step <= side; step *= 2) combine(lines -= step, step);
    if (side > step) combine(height, side - step);
  }
}

// Words of pixel rows [y0, y1): the set of labels in the window, 0 where it holds one label only.
template <typename Word>
void window_sets(const Task& t, const uint8_t* bytes, int64_t y0, int64_t y1, const Word* table, std::vector<Word>& out) {
  const int64_t r = t.side / 2, from = std::max<int64_t>(0, y0 - r), to = std::min(t.height, y1 + r);
  const int64_t lines = y1 - y0 + 2 * r, padded = t.width + 2 * r;
  out.assign(lines * t.width, Word(0));
  std::vector<Word> line(padded);
  for (int64_t y = from; y < to; ++y) {
    const uint8_t* in = bytes + (y - from) * t.width;
    std::fill(line.begin(), line.begin() + r, Word(0));
    for (int64_t x = 0; x < t.width; ++x) line[r + x] = table[in[x]];
    std::fill(line.end() - r, line.end(), Word(0));
    doubled_columns(line.data(), t.width, t.side);
    std::memcpy(&out[(y - (y0 - r)) * t.width], line.data(), sizeof(Word) * t.width);
  }
  doubled_rows(out.data(), y1 - y0, t.width, t.side);
  Word* x = out.data();
#pragma omp simd
  for (int64_t i = 0; i < (y1 - y0) * t.width; ++i) x[i] = (x[i] & (x[i] - 1)) ? x[i] : Word(0);
  if (!t.transparent) return;
  const uint8_t* own = bytes + (y0 - from) * t.width;
#pragma omp simd
  for (int64_t i = 0; i < (y1 - y0) * t.width; ++i) x[i] = own[i] == kVoid ? Word(0) : x[i];
}

// The words of a rows x columns cell; each(keep, found) calls found(bit, count) for every bit of `keep` that some of them hold.
template <typename Word>
struct Cell {
  const Word* first;
  int64_t rows, columns, stride;

  template <typename Found>
  void each(Word keep, Found found) const {
    Word all = 0;
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < columns; ++x) all |= first[y * stride + x];
    for (Word bits = all & keep; bits; bits &= static_cast<Word>(bits - 1)) {
      const int bit = __builtin_ctzll(static_cast<unsigned long long>(bits));
      int count = 0;
      for (int64_t y = 0; y < rows; ++y)
        for (int64_t x = 0; x < columns; ++x) count += static_cast<int>((first[y * stride + x] >> bit) & 1);
      found(bit, count);
    }
  }
};

// The same for 8 x 8 words, the usual case. With AVX-512 one byte of all 64 words makes a register, and a mask counts a bit.
template <typename Word>
struct Cell8 {
  alignas(64) Word words[64];

  Cell8(const Word* first, int64_t stride) {
    for (int y = 0; y < 8; ++y) std::memcpy(words + 8 * y, first + y * stride, 8 * sizeof(Word));
  }

  Word any() const {
    Word all = 0;
#pragma omp simd reduction(| : all)
    for (int i = 0; i < 64; ++i) all |= words[i];
    return all;
  }

#ifdef __AVX512BW__
  __m512i bytes(size_t which) const {
    if constexpr (sizeof(Word) == 1) return _mm512_load_si512(words);
    alignas(64) uint8_t out[64];
    for (size_t i = 0; i < sizeof(Word); ++i) {
      const __m512i part = _mm512_load_si512(reinterpret_cast<const char*>(words) + 64 * i);
      const unsigned shift = static_cast<unsigned>(8 * which);
      if constexpr (sizeof(Word) == 2)
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + 32 * i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(part, shift)));
      if constexpr (sizeof(Word) == 4)
        _mm_store_si128(reinterpret_cast<__m128i*>(out + 16 * i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(part, shift)));
      if constexpr (sizeof(Word) == 8)
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 8 * i), _mm512_cvtepi64_epi8(_mm512_srli_epi64(part, shift)));
    }
    return _mm512_load_si512(out);
  }

  template <typename Found>
  void each(Word keep, Found found) const {
    const Word held = any() & keep;
    if (!held) return;
    for (size_t which = 0; which < sizeof(Word); ++which) {
      unsigned bits = static_cast<unsigned>(held >> (8 * which)) & 255u;
      if (!bits) continue;
      const __m512i plane = bytes(which);
      for (; bits; bits &= bits - 1) {
        const int bit = __builtin_ctz(bits);
        const __mmask64 mask = _mm512_test_epi8_mask(plane, _mm512_set1_epi8(static_cast<char>(1 << bit)));
        found(static_cast<int>(8 * which) + bit, __builtin_popcountll(mask));
      }
    }
  }
#else
  template <typename Found>
  void each(Word keep, Found found) const {
    for (Word bits = any() & keep; bits; bits &= static_cast<Word>(bits - 1)) {
      const int bit = __builtin_ctzll(static_cast<unsigned long long>(bits));
      Word count = 0;
#pragma omp simd reduction(+ : count)
      for (int i = 0; i < 64; ++i) count += (words[i] >> bit) & 1;
      found(bit, static_cast<int>(count));
    }
  }
#endif
};

}  // namespace
