// Tokens as rows of a matrix in shared memory, and the way there and back.

// Whether the channels of tokens can be moved 16 bytes at a time.
__device__ inline bool in_vectors(const void* at, const Map& map) {
  return map.vectors && reinterpret_cast<unsigned long long>(at) % 16 == 0;
}

template <class T, int CHANNELS>
struct Rows {
  static constexpr int VECTOR = 16 / sizeof(T);        // numbers that move together
  static constexpr int STRIDE = CHANNELS + VECTOR;     // so that rows lie in different banks
  T* at;

  __device__ T* row(int lane) const { return at + lane * STRIDE; }

  // `count` rows of tokens; zeros where there is none, and beyond the channels. All threads of a
  // block take part; the rows are there once copies were awaited and threads are in step.
  __device__ void fetch(const T* from, const Map& map, const int* tokens, int count) const {
    if (in_vectors(from, map)) {
      constexpr int PARTS = CHANNELS / VECTOR;
      for (int i = threadIdx.x; i < count * PARTS; i += blockDim.x) {
        const int lane = i / PARTS, channel = i % PARTS * VECTOR;
        const bool real = tokens[lane] >= 0 && channel < map.channels;
        const T* source = real ? from + tokens[lane] * map.token + channel : from;
        copy_async(row(lane) + channel, source, real);
      }
      commit_copies();
    } else {
      for (int i = threadIdx.x; i < count * CHANNELS; i += blockDim.x) {
        const int lane = i / CHANNELS, channel = i % CHANNELS;
        const bool real = tokens[lane] >= 0 && channel < map.channels;
        row(lane)[channel] = real ? from[tokens[lane] * map.token + channel * map.channel] : T(0.f);
      }
    }
  }

  // The rows of one warp, which alone takes part.
  __device__ void store(T* to, const Map& map, const int* tokens, int first) const {
    const int thread = threadIdx.x % 32;
    if (in_vectors(to, map)) {
      constexpr int PARTS = CHANNELS / VECTOR;
      for (int i = thread; i < 16 * PARTS; i += 32) {
        const int lane = first + i / PARTS, channel = i % PARTS * VECTOR;
        if (tokens[lane] < 0 || channel >= map.channels) continue;
        *reinterpret_cast<uint4*>(to + tokens[lane] * map.token + channel) =
            *reinterpret_cast<const uint4*>(row(lane) + channel);
      }
    } else {
      for (int i = thread; i < 16 * CHANNELS; i += 32) {
        const int lane = first + i / CHANNELS, channel = i % CHANNELS;
        if (tokens[lane] < 0 || channel >= map.channels) continue;
        to[tokens[lane] * map.token + channel * map.channel] = row(lane)[channel];
      }
    }
  }

  // Zeros in place of what is not finite; `spoilt` says of each row whether there was any, as 0
  // or NaN. A weight of zero makes NaN of it, in results it has no part in.
  __device__ void clean(Sum<T>* spoilt, int count) const {
    for (int lane = threadIdx.x; lane < count; lane += blockDim.x) {
      spoilt[lane] = 0;
      for (int channel = 0; channel < CHANNELS; channel++) {
        if (finite(widened(row(lane)[channel]))) continue;
        row(lane)[channel] = T(0.f);
        spoilt[lane] = not_a_number<Sum<T>>();
      }
    }
  }
};

// Pieces of a block's shared memory, one after the other.
struct Memory {
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
