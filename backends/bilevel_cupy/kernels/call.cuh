// What a launch is told of a call. The host has the same structures, see call.py.

// Tokens of images, (N, *spatial, M, D): how far apart they are, in numbers.
struct Map {
  long long image, token, head, channel;
  int channels;
  int vectors;  // whether steps are whole vectors of 16 bytes, and channels side by side
};

// The tokens of queries or of keys.
struct Side {
  int regions;  // of an image
  int places;   // of a region: tokens of the largest
  int tokens;   // of an image
};

struct Call {
  Map q, k, v, out, d_out, d_q, d_k, d_v;
  double scale;
  Side queries, keys;
  int heads;
  int topk;
  int group;  // regions that share a tile
  int tiles;  // of an image
};

// The tile and the head that a block computes, and where its lanes, 16 for each warp, have tokens.
// A tile has some whole regions of an image, place after place, or a part of one.
struct Tile {
  long long image;
  int head, number, first_region;

  __device__ Tile(const Call& call, const Side& side) {
    const unsigned head_major = blockIdx.x / call.heads;
    head = blockIdx.x % call.heads;  // heads next to each other share memory
    image = head_major / call.tiles;
    number = head_major % call.tiles;
    first_region = call.group > 1 ? number * call.group : number / parts(side);
  }

  __device__ static int lanes() { return blockDim.x / 2; }

  // Tiles of a region that is alone in its tiles.
  __device__ static int parts(const Side& side) { return (side.places + lanes() - 1) / lanes(); }

  // The region of a lane among those of the tile.
  __device__ int slot(int lane, const Call& call, const Side& side) const {
    return call.group > 1 ? lane / side.places : 0;
  }

  // The token of a lane, -1 if it has none. `table` has the tokens of regions, place by place.
  __device__ int token(int lane, const Call& call, const Side& side, const int* table) const {
    const int s = slot(lane, call, side);
    const int region = first_region + s;
    const int place =
        call.group > 1 ? lane % side.places : number % parts(side) * lanes() + lane;
    const bool there = s < call.group && region < side.regions && place < side.places;
    return there ? table[region * side.places + place] : -1;
  }

  // The tokens of all lanes; a block's threads are in step then.
  __device__ void list(int* tokens, const Call& call, const Side& side, const int* table) const {
    for (int lane = threadIdx.x; lane < lanes(); lane += blockDim.x)
      tokens[lane] = token(lane, call, side, table);
    __syncthreads();
  }

  // Where the numbers of an image's and a head's tokens begin, (N, M, tokens).
  __device__ long long row(const Call& call, const Side& side) const {
    return (image * call.heads + head) * side.tokens;
  }

  // Where its tokens' channels begin.
  template <class T>
  __device__ T* of(T* array, const Map& map) const {
    return array + image * map.image + head * map.head;
  }
};
