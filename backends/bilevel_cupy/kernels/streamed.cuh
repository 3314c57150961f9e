// The rows that a stationary tile is computed with: the tokens of the regions of a block list, one
// after the other, STREAMED_ROWS at a time.

// Regions to stream and, of each, its group mask: bit s where the tile's region of slot s is routed
// together with it. Without masks, the tile has one region, and it is.
struct BlockList {
  const int* indices;
  const unsigned* group_masks;
  int num_blocks;
};

// Of a tile of queries. A group has a list; the list of a region alone are its routes.
__device__ inline BlockList kv_blocks(const Call& call, const Tile& tile, const int* kv_indices,
                                      const unsigned* group_masks, const int* kv_ranges) {
  const long long region = tile.image * call.queries.regions + tile.first_region;
  if (call.group == 1) return {kv_indices + region * call.topk, nullptr, call.topk};
  const int* range = kv_ranges + (tile.image * call.tiles + tile.id) * 2;
  const long long begin = tile.image * call.queries.regions * call.topk + range[0];
  return {kv_indices + begin, group_masks + begin, range[1]};
}

// Of a tile of keys. Each group, and each region alone, has a list.
__device__ inline BlockList q_blocks(const Call& call, const Tile& tile, const int* q_indices,
                                     const unsigned* group_masks, const int* q_ranges) {
  const int parts = call.group > 1 ? 1 : Tile::parts(call.keys);
  const int* range = q_ranges + (tile.image * (call.tiles / parts) + tile.id / parts) * 2;
  const long long begin = tile.image * call.queries.regions * call.topk + range[0];
  return {q_indices + begin, group_masks + begin, range[1]};
}

// Which scores are of a query and a key that are routed together: (column, element) of a result
// whose rows are stationary and whose columns are streamed.
struct RoutedMask {
  int slots[2];  // of this lane's two rows
  const unsigned* group_masks;  // of the columns; 0 for one without a token

  __device__ RoutedMask(const Tile& tile, const Call& call, const Side& side)
      : group_masks(nullptr) {
    const int warp_row = threadIdx.x / 32 * 16;
    for (int r = 0; r < 2; r++) slots[r] = tile.slot(warp_row + row_of(2 * r), call, side);
  }

  __device__ bool operator()(int column, int element) const {
    return group_masks[column] >> slots[element / 2] & 1;
  }
};

// Two arrays of the streamed side. While one step is computed, the rows of the next are on their
// way, and the tokens of the one after are looked up.
template <class T, int CHANNELS, int STREAMED_ROWS>
struct Streamed {
  BlockList blocks;
  Side side;
  const int* table;
  const T *first_at, *second_at;
  Layout first_layout, second_layout;
  Rows<T, CHANNELS> first_rows, second_rows;  // of two steps
  int* tokens;                                // of three
  unsigned* group_masks;
  int steps;

  __device__ Streamed(SharedMemory& memory, BlockList blocks, const Side& side, const int* table,
                      const T* first_at, const Layout& first_layout, const T* second_at,
                      const Layout& second_layout)
      : blocks(blocks), side(side), table(table), first_at(first_at), second_at(second_at),
        first_layout(first_layout), second_layout(second_layout) {
    first_rows = memory.rows<T, CHANNELS>(2 * STREAMED_ROWS);
    second_rows = memory.rows<T, CHANNELS>(2 * STREAMED_ROWS);
    tokens = memory.take<int>(3 * STREAMED_ROWS);
    group_masks = memory.take<unsigned>(3 * STREAMED_ROWS);
    steps = (blocks.num_blocks * side.region_tokens + STREAMED_ROWS - 1) / STREAMED_ROWS;
  }

  __device__ Rows<T, CHANNELS> first(int step) const {
    return {first_rows.row(step % 2 * STREAMED_ROWS)};
  }
  __device__ Rows<T, CHANNELS> second(int step) const {
    return {second_rows.row(step % 2 * STREAMED_ROWS)};
  }
  __device__ const int* tokens_of(int step) const { return tokens + step % 3 * STREAMED_ROWS; }
  __device__ const unsigned* group_masks_of(int step) const {
    return group_masks + step % 3 * STREAMED_ROWS;
  }

  // Before the first step; threads need not be in step. What was fetched before is there when they
  // are in step again, also if there is nothing to stream.
  __device__ void begin() const {
    if (steps == 0) return await_copies<0>();
    look_up(0);
    __syncthreads();
    fetch(0);
    look_up(1);
  }

  // Await the rows of a step, and fetch those of the next.
  __device__ void advance(int step) const {
    await_copies<0>();
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
  }

  __device__ void look_up(int step) const {
    for (int row = threadIdx.x; step < steps && row < STREAMED_ROWS; row += blockDim.x) {
      const int at = step * STREAMED_ROWS + row, block = at / side.region_tokens;
      const int region = block < blocks.num_blocks ? blocks.indices[block] : -1;
      const bool valid = 0 <= region && region < side.regions;
      const int token =
          valid ? table[region * side.region_tokens + at % side.region_tokens] : -1;
      const unsigned mask = blocks.group_masks && valid ? blocks.group_masks[block] : 1u;
      tokens[step % 3 * STREAMED_ROWS + row] = token;
      group_masks[step % 3 * STREAMED_ROWS + row] = token < 0 ? 0u : mask;
    }
  }

  __device__ void fetch(int step) const {
    first(step).fetch(first_at, first_layout, tokens_of(step), STREAMED_ROWS);
    second(step).fetch(second_at, second_layout, tokens_of(step), STREAMED_ROWS);
  }
};
