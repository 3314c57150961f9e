// What a launch is told of a call. The host has the same structures, see call.py.

// Where an array (N, *spatial, M, D) has its elements: strides, in elements.
struct Layout {
  long long image, token, head, channel;
  int channels;
  int vectorized;  // whether channels are contiguous, and other strides whole vectors of 16 bytes
};

// Queries, or keys and values.
struct Side {
  int regions;        // of an image
  int region_tokens;  // of the largest region; the positions of each
  int tokens;         // of an image
};

struct Call {
  Layout q, k, v, out, d_out, d_q, d_k, d_v;
  double scale;
  Side queries, keys;
  int heads;
  int topk;
  int group;  // regions that share a tile
  int tiles;  // of an image
};

// The stationary tile of one head that a thread block computes. It has 16 rows for each warp, and a
// row has a token or none: those of a group of regions, one after the other, or of a part of one.
struct Tile {
  long long image;
  int head, id, first_region;  // id: of the tile in its image

  __device__ Tile(const Call& call, const Side& side) {
    const unsigned head_major = blockIdx.x / call.heads;
    head = blockIdx.x % call.heads;  // heads next to each other share memory
    image = head_major / call.tiles;
    id = head_major % call.tiles;
    first_region = call.group > 1 ? id * call.group : id / parts(side);
  }

  __device__ static int rows() { return blockDim.x / 2; }

  // Tiles of a region that is alone in its tiles.
  __device__ static int parts(const Side& side) {
    return (side.region_tokens + rows() - 1) / rows();
  }

  // The slot of a row: the number of its region in the group.
  __device__ int slot(int row, const Call& call, const Side& side) const {
    return call.group > 1 ? row / side.region_tokens : 0;
  }

  // The token of a row, -1 if it has none; `table` as write_token_table makes it.
  __device__ int token(int row, const Call& call, const Side& side, const int* table) const {
    const int s = slot(row, call, side);
    const int region = first_region + s;
    const int position =
        call.group > 1 ? row % side.region_tokens : id % parts(side) * rows() + row;
    const bool valid = s < call.group && region < side.regions && position < side.region_tokens;
    return valid ? table[region * side.region_tokens + position] : -1;
  }

  // The tokens of all rows; the block's threads are in step then.
  __device__ void list_tokens(int* tokens, const Call& call, const Side& side,
                              const int* table) const {
    for (int row = threadIdx.x; row < rows(); row += blockDim.x)
      tokens[row] = token(row, call, side, table);
    __syncthreads();
  }

  // Where lse and delta (N, M, tokens) begin for its image and head.
  __device__ long long lse_offset(const Call& call, const Side& side) const {
    return (image * call.heads + head) * side.tokens;
  }

  // Where an array begins for its image and head.
  template <class T>
  __device__ T* of(T* array, const Layout& layout) const {
    return array + image * layout.image + head * layout.head;
  }
};
