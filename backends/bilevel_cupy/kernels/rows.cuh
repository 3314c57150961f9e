// Rows of tiles in shared memory, one token each, and the way there and back.

// Whether the channels of tokens can be moved 16 bytes at a time.
__device__ inline bool in_vectors(const void* at, const Layout& layout) {
  return layout.vectorized && reinterpret_cast<unsigned long long>(at) % 16 == 0;
}

template <class T, int CHANNELS>
struct Rows {
  static constexpr int VECTOR = 16 / sizeof(T);     // elements that move together
  static constexpr int STRIDE = CHANNELS + VECTOR;  // so that rows lie in different banks
  T* at;

  __device__ T* row(int i) const { return at + i * STRIDE; }

  // The first `count` rows; zeros where a row has no token, and beyond the channels. All threads of
  // a block take part; rows are there once copies were awaited and threads are in step.
  __device__ void fetch(const T* from, const Layout& layout, const int* tokens, int count) const {
    if (in_vectors(from, layout)) {
      constexpr int PARTS = CHANNELS / VECTOR;
      for (int i = threadIdx.x; i < count * PARTS; i += blockDim.x) {
        const int r = i / PARTS, channel = i % PARTS * VECTOR;
        const bool valid = tokens[r] >= 0 && channel < layout.channels;
        const T* source = valid ? from + tokens[r] * layout.token + channel : from;
        copy_async(row(r) + channel, source, valid);
      }
      commit_copies();
    } else {
      for (int i = threadIdx.x; i < count * CHANNELS; i += blockDim.x) {
        const int r = i / CHANNELS, channel = i % CHANNELS;
        const bool valid = tokens[r] >= 0 && channel < layout.channels;
        row(r)[channel] =
            valid ? from[tokens[r] * layout.token + channel * layout.channel] : T(0.f);
      }
    }
  }

  // The 16 rows of one warp, from `warp_row` on; that warp alone takes part.
  __device__ void store(T* to, const Layout& layout, const int* tokens, int warp_row) const {
    const int lane = threadIdx.x % 32;
    if (in_vectors(to, layout)) {
      constexpr int PARTS = CHANNELS / VECTOR;
      for (int i = lane; i < 16 * PARTS; i += 32) {
        const int r = warp_row + i / PARTS, channel = i % PARTS * VECTOR;
        if (tokens[r] < 0 || channel >= layout.channels) continue;
        *reinterpret_cast<uint4*>(to + tokens[r] * layout.token + channel) =
            *reinterpret_cast<const uint4*>(row(r) + channel);
      }
    } else {
      for (int i = lane; i < 16 * CHANNELS; i += 32) {
        const int r = warp_row + i / CHANNELS, channel = i % CHANNELS;
        if (tokens[r] < 0 || channel >= layout.channels) continue;
        to[tokens[r] * layout.token + channel * layout.channel] = row(r)[channel];
      }
    }
  }

  // Zeros in place of what is not finite: times a weight of zero it would be NaN, in results it has
  // no part in. `row_nan` says of each row whether it had any: NaN if so, else 0.
  __device__ void zero_nonfinite(Accum<T>* row_nan, int count) const {
    for (int r = threadIdx.x; r < count; r += blockDim.x) {
      row_nan[r] = 0;
      for (int channel = 0; channel < CHANNELS; channel++) {
        if (finite(to_accum(row(r)[channel]))) continue;
        row(r)[channel] = T(0.f);
        row_nan[r] = not_a_number<Accum<T>>();
      }
    }
  }
};

// Pieces of a thread block's shared memory, one after the other.
struct SharedMemory {
  unsigned char* next = shared_memory();

  template <class T>
  __device__ T* take(int count) {
    T* piece = reinterpret_cast<T*>(next);
    next += (count * sizeof(T) + 15) / 16 * 16;
    return piece;
  }

  template <class T, int CHANNELS>
  __device__ Rows<T, CHANNELS> rows(int count) {
    return {take<T>(count * Rows<T, CHANNELS>::STRIDE)};
  }
};
