// Edge masks from the set of labels in each window, pooled to cells as compressed rows (one row per image and class).
//
// Dilation of class c is 1 where the window holds c, erosion where it holds nothing else: so a pixel is an edge pixel of c
// where its window holds c and a second label. The set is a bit word, an OR over rows and columns by doubling.
#include <memory>

#include "numbers.h"
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

constexpr int kVoid = 255;         // labels are at most 254 here; 255 stands for "ignored"
constexpr int64_t kBandRows = 96;  // pixel rows per task: words of a band stay in the second-level cache

struct Entry {
  int32_t cell;
  float share;
  int32_t owner;  // its class; sorted into rows at the end
};

struct Edges {
  int64_t images, classes, cells;
  bool wrong = false;                        // a label out of range was seen
  std::vector<std::vector<Entry>> entries;  // one list per task, ordered by cell
  int64_t tasks_per_image;
};

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

// Labels of pixel rows [y0, y1) as bytes, 255 where ignored; presence of each byte. False: a label is out of range.
template <typename L>
bool read_rows(const Task& t, int64_t y0, int64_t y1, uint8_t* out, uint8_t* seen) {
  const L* in = static_cast<const L*>(t.labels) + y0 * t.width;
  const int64_t count = (y1 - y0) * t.width;
  const int64_t classes = t.classes, ignore = t.ignore;
  int bad = 0;
#pragma omp simd reduction(| : bad)
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = static_cast<int64_t>(in[i]);
    const bool skip = v == ignore;
    bad |= static_cast<int>(!skip) & static_cast<int>(v < 0 || v >= classes);
    out[i] = skip ? uint8_t(kVoid) : static_cast<uint8_t>(in[i]);
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
  return !bad;
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

// Entries of one group of classes: bit b stands for ids[b], the top bit for every other label.
template <typename Word>
void group_entries(const Task& t, const uint8_t* bytes, const std::vector<uint8_t>& ids, std::vector<Entry>& out) {
  static thread_local std::vector<Word> words;
  const Word other = Word(1) << (sizeof(Word) * 8 - 1);
  Word table[256], keep = 0;
  for (int v = 0; v < 255; ++v) table[v] = other;
  table[kVoid] = t.transparent ? Word(0) : other;
  for (size_t b = 0; b < ids.size(); ++b) keep |= table[ids[b]] = Word(1) << b;
  const int64_t y0 = begin_of(t.row0, t.height, t.h), y1 = end_of(t.row1 - 1, t.height, t.h);
  window_sets(t, bytes, y0, y1, table, words);
  for (int64_t i = t.row0; i < t.row1; ++i) {
    const int64_t top = begin_of(i, t.height, t.h), rows = end_of(i, t.height, t.h) - top;
    for (int64_t j = 0; j < t.w; ++j) {
      const int64_t left = begin_of(j, t.width, t.w), columns = end_of(j, t.width, t.w) - left;
      const Word* cell = &words[(top - y0) * t.width + left];
      const int32_t position = static_cast<int32_t>(i * t.w + j);
      const auto found = [&](int bit, float share) {
        if (t.dense) {
          t.dense[ids[bit] * t.h * t.w + position] = share;
        } else {
          out.push_back({position, share, ids[bit]});
        }
      };
      if (rows == 8 && columns == 8) {  // powers of two divide exactly
        Cell8<Word>(cell, t.width).each(keep, [&](int bit, int count) { found(bit, static_cast<float>(count) * 0.015625f); });
      } else {  // divided as adaptive average pooling divides
        Cell<Word>{cell, rows, columns, t.width}.each(
            keep, [&](int bit, int count) { found(bit, static_cast<float>(count) / rows / columns); });
      }
    }
  }
}

bool run(const Task& t, std::vector<Entry>& out) {
  static thread_local std::vector<uint8_t> bytes;
  const int64_t r = t.side / 2;
  const int64_t from = std::max<int64_t>(0, begin_of(t.row0, t.height, t.h) - r);
  const int64_t to = std::min(t.height, end_of(t.row1 - 1, t.height, t.h) + r);
  bytes.resize((to - from) * t.width);
  uint8_t seen[256] = {};
  bool good = false;
  if (t.label_bytes == 1) good = read_rows<uint8_t>(t, from, to, bytes.data(), seen);
  if (t.label_bytes == 4) good = read_rows<int32_t>(t, from, to, bytes.data(), seen);
  if (t.label_bytes == 8) good = read_rows<int64_t>(t, from, to, bytes.data(), seen);
  if (!good) return false;
  std::vector<uint8_t> ids;
  int labels = 0;
  for (int v = 0; v < 256; ++v) labels += seen[v];
  for (int v = 0; v < t.classes; ++v)
    if (seen[v]) ids.push_back(static_cast<uint8_t>(v));
  if (labels < 2) return true;  // one label: no edge
  const size_t count = ids.size();
  if (count <= 7) {
    group_entries<uint8_t>(t, bytes.data(), ids, out);
  } else if (count <= 15) {
    group_entries<uint16_t>(t, bytes.data(), ids, out);
  } else if (count <= 31) {
    group_entries<uint32_t>(t, bytes.data(), ids, out);
  } else {
    for (size_t g = 0; g < count; g += 63) {
      const std::vector<uint8_t> group(ids.begin() + g, ids.begin() + std::min(count, g + 63));
      group_entries<uint64_t>(t, bytes.data(), group, out);
    }
  }
  return true;
}

}  // namespace

// Finds the edges of [images, height, width] labels; returns a handle for the functions below. `shape` holds images, height,
// width, h, w, classes (at most 254), side; label_bytes is 1 (uint8), 4 or 8. Labels equal to `ignore` are ignored. dense:
// a zeroed map [images, classes, h, w] that receives the shares, or null: they are kept for bpkd_edges_rows.
BPKD_API void* bpkd_edges(const void* labels, int label_bytes, const int64_t* shape, int64_t ignore, int transparent,
                          float* dense, int threads) {
  const int64_t images = shape[0], height = shape[1], width = shape[2], h = shape[3], w = shape[4];
  auto found = std::make_unique<Edges>();
  found->images = images;
  found->classes = shape[5];
  found->cells = h * w;
  const int64_t side = shape[6], band = std::max(kBandRows, 6 * side);  // a wide window: the halo must not dominate
  const int64_t bands = std::max<int64_t>(1, std::min(h, height / band));
  found->tasks_per_image = bands;
  found->entries.resize(images * bands);
  int bad = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) reduction(| : bad)
  for (int64_t k = 0; k < images * bands; ++k) {
    const int64_t n = k / bands, b = k % bands;
    const Task task{dense ? dense + n * found->classes * found->cells : nullptr,
                    static_cast<const char*>(labels) + n * height * width * label_bytes, label_bytes, height, width, h, w,
                    b * h / bands, (b + 1) * h / bands, static_cast<int>(shape[5]), ignore, static_cast<int>(side),
                    transparent != 0};
    bad |= !run(task, found->entries[k]);
  }
  found->wrong = bad != 0;
  return found.release();
}

// Number of non-zero cells over all rows, or -1: a label was out of range.
BPKD_API int64_t bpkd_edges_count(const void* handle) {
  const auto* e = static_cast<const Edges*>(handle);
  if (e->wrong) return -1;
  int64_t total = 0;
  for (const auto& list : e->entries) total += static_cast<int64_t>(list.size());
  return total;
}

// Compressed rows: rows[n * classes + c] .. rows[.. + 1] are the places in cells (ascending) and shares.
BPKD_API void bpkd_edges_rows(const void* handle, int64_t* rows, int32_t* cells, float* shares) {
  const auto* e = static_cast<const Edges*>(handle);
  const int64_t count = e->images * e->classes;
  std::fill(rows, rows + count + 1, 0);
  std::vector<int64_t> place(count);
  for (size_t k = 0; k < e->entries.size(); ++k)
    for (const Entry& x : e->entries[k]) ++rows[static_cast<int64_t>(k) / e->tasks_per_image * e->classes + x.owner + 1];
  for (int64_t i = 0; i < count; ++i) {
    place[i] = rows[i];
    rows[i + 1] += rows[i];
  }
  for (size_t k = 0; k < e->entries.size(); ++k)
    for (const Entry& x : e->entries[k]) {
      const int64_t at = place[static_cast<int64_t>(k) / e->tasks_per_image * e->classes + x.owner]++;
      cells[at] = x.cell;
      shares[at] = x.share;
    }
}

// Changes with any signature in this folder, together with INTERFACE in __init__.py.
BPKD_API int bpkd_interface() { return 1; }

BPKD_API void bpkd_edges_free(void* handle) { delete static_cast<Edges*>(handle); }

// Rows of a dense mask [rows, cells]: cells and shares of its non-zeros; cells and shares null: only counts them into rows.
BPKD_API void bpkd_rows_of(const float* mask, const int64_t* shape, int64_t* rows, int32_t* cells, float* shares, int threads) {
  const int64_t count = shape[0], size = shape[1];
  if (!cells) {
    rows[0] = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < count; ++r) {
      const float* m = mask + r * size;
      int n = 0;
#pragma omp simd reduction(+ : n)
      for (int64_t i = 0; i < size; ++i) n += m[i] > 0.f;
      rows[r + 1] = n;
    }
    for (int64_t r = 0; r < count; ++r) rows[r + 1] += rows[r];
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < count; ++r) {
    int64_t at = rows[r];
    if (at == rows[r + 1]) continue;
    const float* m = mask + r * size;
    for (int64_t i = 0; i < size; ++i)
      if (m[i] > 0.f) {
        cells[at] = static_cast<int32_t>(i);
        shares[at++] = m[i];
      }
  }
}
