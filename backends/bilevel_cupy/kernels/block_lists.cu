// Which regions each stationary tile streams: block lists, made of the routes on the device. A
// group of neighbouring regions has one list: the regions of the other side that any of them is
// routed together with, in ascending order. A warp makes a list; there are no atomics and no sort.

// The group mask of a streamed region, for the `group` regions from `first_region` on: bit s where
// it is routed together with region first_region + s. Zero if the list is to pass it by.
template <bool KEYS_STATIONARY>
__device__ inline unsigned group_mask_of(const int* index, int topk, int first_region, int group,
                                         int q_regions, int streamed_region) {
  unsigned mask = 0;
  if (KEYS_STATIONARY) {
    for (int i = 0; i < topk; i++) {
      const int region = index[static_cast<long long>(streamed_region) * topk + i];
      if (first_region <= region && region - first_region < group)
        mask |= 1u << (region - first_region);
    }
  } else {
    for (int slot = 0; slot < group && first_region + slot < q_regions; slot++)
      for (int i = 0; i < topk; i++)
        if (index[static_cast<long long>(first_region + slot) * topk + i] == streamed_region)
          mask |= 1u << slot;
  }
  return mask;
}

// q_num_blocks (N, groups): how many query regions each group of key regions streams.
__global__ void count_q_blocks(const int* index, int* q_num_blocks, const int q_regions,
                               const int topk, const int group, const int groups) {
  const int image = blockIdx.x / groups, id = blockIdx.x % groups;
  const int* of_image = index + static_cast<long long>(image) * q_regions * topk;
  int count = 0;
  for (int region = threadIdx.x; region < q_regions; region += 32)
    count += group_mask_of<true>(of_image, topk, id * group, group, q_regions, region) != 0;
  for (int apart = 16; apart; apart /= 2) count += __shfl_xor_sync(~0u, count, apart);
  if (threadIdx.x == 0) q_num_blocks[blockIdx.x] = count;
}

// indices (kv_indices or q_indices) and group_masks, both (N, query regions * k): all lists of an
// image. And ranges (N, groups, 2): where a group's list begins, and its num_blocks. Lists of
// groups of key regions follow each other, by q_num_blocks; that of a group of query regions has
// room for all of their routes.
template <bool KEYS_STATIONARY>
__global__ void list_blocks(const int* index, const int* q_num_blocks, int* indices,
                            unsigned* group_masks, int* ranges, const int q_regions,
                            const int topk, const int streamed_regions, const int group,
                            const int groups) {
  const int image = blockIdx.x / groups, id = blockIdx.x % groups;
  const long long begin_of_image = static_cast<long long>(image) * q_regions * topk;
  int begin = 0;
  if (KEYS_STATIONARY) {
    for (int i = threadIdx.x; i < id; i += 32) begin += q_num_blocks[image * groups + i];
    for (int apart = 16; apart; apart /= 2) begin += __shfl_xor_sync(~0u, begin, apart);
  } else {
    begin = id * group * topk;
  }
  int num_blocks = 0;
  for (int first = 0; first < streamed_regions; first += 32) {
    const int region = first + threadIdx.x;
    const unsigned mask =
        region < streamed_regions
            ? group_mask_of<KEYS_STATIONARY>(index + begin_of_image, topk, id * group, group,
                                             q_regions, region)
            : 0;
    const unsigned found = __ballot_sync(~0u, mask != 0);
    if (mask) {
      const int at = begin + num_blocks + __popc(found & ((1u << threadIdx.x) - 1));
      indices[begin_of_image + at] = region;
      group_masks[begin_of_image + at] = mask;
    }
    num_blocks += __popc(found);
  }
  if (threadIdx.x == 0) {
    ranges[blockIdx.x * 2] = begin;
    ranges[blockIdx.x * 2 + 1] = num_blocks;
  }
}
