// The tokens that a tile walks over: those of some regions, one after the other, ROWS at a time.

// The regions of a walk and, of each, which of the tile's regions are routed together with it: bit
// s for slot s. All of them where there are no members.
struct Route {
  const int* regions;
  const unsigned* members;
  int count;
};

// Of a tile of queries: it has a list in a group, and one region alone walks over its routes.
__device__ inline Route route_of_queries(const Call& call, const Tile& tile, const int* regions,
                                         const unsigned* members, const int* spans) {
  const long long first = tile.image * call.queries.regions + tile.first_region;
  if (call.group == 1) return {regions + first * call.topk, nullptr, call.topk};
  const int* span = spans + (tile.image * call.tiles + tile.number) * 2;
  const long long begin = tile.image * call.queries.regions * call.topk + span[0];
  return {regions + begin, members + begin, span[1]};
}

// Of a tile of keys: it always has a list.
__device__ inline Route route_of_keys(const Call& call, const Tile& tile, const int* regions,
                                      const unsigned* members, const int* spans) {
  const int parts = call.group > 1 ? 1 : Tile::parts(call.keys);
  const int* span =
      spans + (tile.image * (call.tiles / parts) + tile.number / parts) * 2;
  const long long begin = tile.image * call.queries.regions * call.topk + span[0];
  return {regions + begin, members + begin, span[1]};
}

// Which of a lane's numbers are of a row and a column that are routed together.
struct Pairs {
  int slots[2];  // of its two rows
  const unsigned* routed;

  __device__ Pairs(const Tile& tile, const Call& call, const Side& side) : routed(nullptr) {
    const int first = threadIdx.x / 32 * 16;
    for (int r = 0; r < 2; r++) slots[r] = tile.slot(first + row_of(2 * r), call, side);
  }

  __device__ bool operator()(int column, int number) const {
    return routed[column] >> slots[number / 2] & 1;
  }
};

// Two arrays of the tokens that are walked over. While one tile is computed with, the next is on
// its way, and which tokens the one after has is looked up.
template <class T, int CHANNELS, int ROWS>
struct Walk {
  Route route;
  Side side;
  const int* table;
  const T *first_at, *second_at;
  Map first_map, second_map;
  Rows<T, CHANNELS> first_rows, second_rows;  // of two tiles
  int* tokens;                                // of three
  unsigned* routed;
  int steps;

  __device__ Walk(Memory& memory, Route route, const Side& side, const int* table, const T* first_at,
                  const Map& first_map, const T* second_at, const Map& second_map)
      : route(route), side(side), table(table), first_at(first_at), second_at(second_at),
        first_map(first_map), second_map(second_map) {
    first_rows = memory.rows<T, CHANNELS>(2 * ROWS);
    second_rows = memory.rows<T, CHANNELS>(2 * ROWS);
    tokens = memory.take<int>(3 * ROWS);
    routed = memory.take<unsigned>(3 * ROWS);
    steps = (route.count * side.places + ROWS - 1) / ROWS;
  }

  __device__ Rows<T, CHANNELS> first(int step) const {
    return {first_rows.row(step % 2 * ROWS)};
  }
  __device__ Rows<T, CHANNELS> second(int step) const {
    return {second_rows.row(step % 2 * ROWS)};
  }
  __device__ const int* tokens_of(int step) const { return tokens + step % 3 * ROWS; }
  __device__ const unsigned* routed_of(int step) const { return routed + step % 3 * ROWS; }

  // Before the first step; threads need not be in step. What was sent for before is there when
  // they are in step again, also if there is no step.
  __device__ void begin() const {
    if (steps == 0) return await_copies<0>();
    look_up(0);
    __syncthreads();
    fetch(0);
    look_up(1);
  }

  // Await a tile, and send for the next.
  __device__ void step(int step) const {
    await_copies<0>();
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
  }

  __device__ void look_up(int step) const {
    for (int lane = threadIdx.x; step < steps && lane < ROWS; lane += blockDim.x) {
      const int place = step * ROWS + lane, entry = place / side.places;
      const int region = entry < route.count ? route.regions[entry] : -1;
      const bool there = 0 <= region && region < side.regions;
      const int token = there ? table[region * side.places + place % side.places] : -1;
      const unsigned members = route.members && there ? route.members[entry] : 1u;
      tokens[step % 3 * ROWS + lane] = token;
      routed[step % 3 * ROWS + lane] = token < 0 ? 0u : members;
    }
  }

  __device__ void fetch(int step) const {
    first(step).fetch(first_at, first_map, tokens_of(step), ROWS);
    second(step).fetch(second_at, second_map, tokens_of(step), ROWS);
  }
};
