// Edge masks from the set of labels in each window, pooled to cells as compressed rows (one row per image and class).
//
// Dilation of class c is 1 where the window holds c, erosion where it holds nothing else: so a pixel is an edge pixel of c
// where its window holds c and a second label. The set is a bit word, an OR over rows and columns by doubling.
#include <memory>

#include "label_sets.h"

namespace {

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
  // A dense row of cells is put together in the cache: its classes lie far apart in the map.
  static thread_local std::vector<float> line;
  line.assign(t.dense ? ids.size() * t.w : 0, 0.f);
  for (int64_t i = t.row0; i < t.row1; ++i) {
    const int64_t top = begin_of(i, t.height, t.h), rows = end_of(i, t.height, t.h) - top;
    Word held = 0;  // by any cell of the row
    for (int64_t j = 0; j < t.w; ++j) {
      const int64_t left = begin_of(j, t.width, t.w), columns = end_of(j, t.width, t.w) - left;
      const Word* cell = &words[(top - y0) * t.width + left];
      const auto found = [&](int bit, float share) {
        if (t.dense) {
          line[bit * t.w + j] = share;
          held |= static_cast<Word>(Word(1) << bit);
        } else {
          out.push_back({static_cast<int32_t>(i * t.w + j), share, ids[bit]});
        }
      };
      if (rows == 8 && columns == 8) {  // powers of two divide exactly
        Cell8<Word>(cell, t.width).each(keep, [&](int bit, int count) { found(bit, static_cast<float>(count) * 0.015625f); });
      } else {  // divided as adaptive average pooling divides
        Cell<Word>{cell, rows, columns, t.width}.each(
            keep, [&](int bit, int count) { found(bit, static_cast<float>(count) / rows / columns); });
      }
    }
    for (; held; held &= static_cast<Word>(held - 1)) {
      const int bit = __builtin_ctzll(static_cast<unsigned long long>(held));
      float* from = &line[bit * t.w];
      std::copy(from, from + t.w, t.dense + (ids[bit] * t.h + i) * t.w);
      std::fill(from, from + t.w, 0.f);
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

// Changes with any signature in this folder and with what an argument may be, together with INTERFACE in __init__.py.
BPKD_API int bpkd_interface() { return 2; }

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
